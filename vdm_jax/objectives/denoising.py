"""Denoising: regress the network's output to the process's target at a random noise level.

    t ~ process.sample_time        eps ~ N(0, I)        x_t = process.q_sample(x0, eps, t)
    loss = E_b  1/|given^c|  sum_{frames, pixels not given}  weight(t) (network(x_t, t, cond) - target(x0, eps, t))^2

(arXiv:2006.11239 and all since; which process, prediction and weight is the process's business.)  Frames or regions
that are given (`known`) enter clean and count for nothing: image-to-video, prediction and inpainting are batches with
`known` in them, or `masks` draw it (`diffusion.masks`), a task an example.  Given frames are told t = 0, or everybody's
level (`known_way = "shared"`, arXiv:2305.13311), and are then known by their looks.  With `known_level` they are not
quite clean, as those that a model made itself (arXiv:2411.16375).  Conditions are replaced by their
unconditional value one example at a time (arXiv:2207.12598), and may be made worse before (`objectives.corruption`).

Packed clips (`segments`, see `types.py`) are examples each: a time, a dropout draw and an equal weight of their own, so
the loss is the mean over the clips, as if each had come by itself.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.diffusion import packing
from vdm_jax.diffusion.conditioning import drop_conditions, with_pictures
from vdm_jax.diffusion.leaves import expand, leading_shape
from vdm_jax.diffusion.masks import MaskSampler, draw_tasks
from vdm_jax.diffusion.process import Process
from vdm_jax.errors import did_you_mean
from vdm_jax.objectives import Batch, Networks
from vdm_jax.objectives.corruption import NoisyCondition
from vdm_jax.sampling.known import check_mask
from vdm_jax.sampling.noise import INDEPENDENT, NoiseSource
from vdm_jax.sampling.noise import draw as draw_noise
from vdm_jax.types import CONDITION_KEYS, Array, Condition, Time, check_condition

Draws = dict[str, Array]
KNOWN_WAYS = ("clean", "shared")
MEANS = ("unknown", "all")


@dataclasses.dataclass(frozen=True)
class DenoisingObjective:
    """The loss of ordinary diffusion training.

    Attributes:
      process: noising, target and weight.
      dropout: condition key (`tokens`, `vector.fps` ...) -> rate at which an example loses it in training.
      null_ids, null_mask: the tokenised empty prompt `[L]`, what `tokens` are dropped to; needed with a text encoder
        (where features come with the data, the network `null` holds those of the empty prompt).
      vector: keys of the batch `[B]` that become entries of the condition `vector` (`fps`, `label` ...).
      constants: entries of `vector` that are the same for all clips, and their values.
      clip: key of the batch that is denoised: uint8 pixels (become x / 127.5 - 1) or float latents, or a dict of such.
      noise: where noise comes from (`sampling.noise`); what it reads must be in the batch.
      masks: draws what is given of each example; None leaves that to the batch.
      known_way: the level that is told where content is given: `clean`, 0, or `shared`, everybody's.
      known_level: level at which given frames are shown, whatever is told of them; 0 is clean.
      mean_over: what an example's error is a mean over: what is `unknown` of it, or `all` of it, so that examples of
        which little is unknown weigh less.
      corruption: of conditions; None leaves them as they come.
      bands: noise-level bands of `evaluate`.

    A batch may also hold any key of `types.CONDITION_KEYS`, passed on as it is (of `length`, padding does not count),
    and `counts [B, T]` bool, frames whose error counts as far as they are not given.  A mask
    `known` of another type or size is refused, as in `sampling.known`.
    """

    process: Process
    dropout: Mapping[str, float] = dataclasses.field(default_factory=dict)
    null_ids: tuple[int, ...] = ()
    null_mask: tuple[bool, ...] = ()
    vector: tuple[str, ...] = ()
    constants: Mapping[str, float] = dataclasses.field(default_factory=dict)
    clip: str = "video"
    noise: NoiseSource = INDEPENDENT
    masks: MaskSampler | None = None
    known_way: str = "clean"
    known_level: float = 0.0
    mean_over: str = "unknown"
    corruption: NoisyCondition | None = None
    bands: int = 8

    def __post_init__(self):
        names = [*CONDITION_KEYS, *(f"vector.{name}" for name in (*self.vector, *self.constants))]
        told = "" if self.corruption is None else self.corruption.told
        if told not in ("", *self.vector, *self.constants):
            known = ", ".join((*self.vector, *self.constants)) or "none"
            raise ValueError(f"corruption.told: {told!r} must be in vector or constants, which samples read ({known})")
        for key in self.dropout:
            if key not in names:
                raise ValueError(f"dropout: {did_you_mean(key, names)}")
        if len(self.null_ids) != len(self.null_mask):
            raise ValueError(f"null_mask: {len(self.null_mask)} entries for {len(self.null_ids)} null_ids")
        for name, allowed in (("known_way", KNOWN_WAYS), ("mean_over", MEANS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: {did_you_mean(getattr(self, name), allowed)}")
        if not 0.0 <= self.known_level <= self.process.t_max:
            raise ValueError(f"known_level: {self.known_level!r} must be from 0 to t_max={self.process.t_max:g}")
        if self.bands < 1:
            raise ValueError(f"bands: {self.bands!r} must be 1 or more")

    def __call__(self, networks: Networks, batch: Batch, rng: Array) -> tuple[Array, dict[str, Array]]:
        """`(loss, metrics)` of a batch; see `objectives`."""
        return self.loss(networks, batch, self.draw(batch, rng))

    def draw(self, batch: Batch, rng: Array) -> Draws:
        """Times of the whole batch (stratified over it), and a key per example for noise, for dropout and its task."""
        size, frames = leading_shape(batch[self.clip])
        time_key, noise_key, drop_key = jax.random.split(rng, 3)
        noise = jax.random.split(noise_key, size)
        if "segments" not in batch:
            time = self.process.sample_time(time_key, size, frames)
            task = {} if self.masks is None else {"task": jax.random.split(jax.random.fold_in(rng, 3), size)}
            worse = {} if self.corruption is None else {"worse": jax.random.split(jax.random.fold_in(rng, 4), size)}
            return {"time": time, "noise": noise, "drop": jax.random.split(drop_key, size), **task, **worse}
        if self.corruption is not None:
            raise ValueError("corruption: is not drawn clip by clip, so not with packed clips (segments)")
        clips, segments = clips_of(batch), batch["segments"]
        time = self.process.sample_time(time_key, size * clips, frames).reshape(size, clips, frames)
        own = jnp.take_along_axis(time, segments[:, None], axis=1)[:, 0]
        return {"time": own, "noise": noise, "drop": jax.random.split(drop_key, (size, clips))}

    def loss(self, networks: Networks, batch: Batch, draws: Draws) -> tuple[Array, dict[str, Array]]:
        """`(loss, {"mse": unweighted})`, both means over examples, float32.

        With `masks` also `nothing_unknown`, the share of examples that teach nothing because all of them is given.
        """
        batch = self._with_tasks(batch, draws.get("task"))
        cond, null = self.conditions(networks, batch, draws.get("worse"))
        drop = drop_per_example if "segments" not in batch else _drop_per_clip
        cond = drop(cond, null, self.dropout, draws["drop"])
        loss, mse = self._errors(networks["backbone"], batch, cond, draws["time"], draws["noise"])
        metrics = {"mse": mse}
        if self.masks is not None:
            known = batch["known"]
            metrics["nothing_unknown"] = known.all(axis=tuple(range(1, known.ndim))).mean(dtype=jnp.float32)
        return loss, metrics

    def evaluate(self, networks: Networks, batch: Batch, rng: Array) -> dict[str, Array]:
        """Losses at fixed parts of the noise range, with all conditions.

        The range is cut at `process.levels(bands)`; in each band every example gets one level, uniform within it.

        Args:
          networks, batch: as in training.
          rng: `[B]` keys, one per example.

        Returns:
          `mse/<low>-<high>` of each band, and `loss` and `mse`, the means over the bands.
        """
        tasks = None if self.masks is None else jax.vmap(lambda key: jax.random.fold_in(key, self.bands))(rng)
        batch = self._with_tasks(batch, tasks)
        worse = None if self.corruption is None else jax.vmap(lambda key: jax.random.fold_in(key, self.bands + 1))(rng)
        cond, _ = self.conditions(networks, batch, worse)
        levels = self.process.levels(self.bands)
        size, frames = leading_shape(batch[self.clip])

        def band(edges: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            high, low, number = edges
            keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, number)))(rng)  # [B, 2]
            place = jax.vmap(jax.random.uniform)(keys[:, 0])
            time = jnp.broadcast_to((low + place * (high - low))[:, None], (size, frames))
            return self._errors(networks["backbone"], batch, cond, time, keys[:, 1])

        losses, errors = jax.lax.map(band, (levels[:-1], levels[1:], jnp.arange(self.bands)))
        names = [f"mse/{low:.3g}-{high:.3g}" for high, low in itertools.pairwise(levels)]
        return {"loss": losses.mean(), "mse": errors.mean(), **dict(zip(names, errors))}

    def conditions(
        self, networks: Networks, batch: Batch, worse: Array | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The condition of a batch, and the unconditional value of each key that dropout names.

        Args:
          networks, batch: as in training.
          worse: `[B]` keys of `corruption`; None leaves conditions as they come.

        Raises:
          ValueError: a condition the backbone does not read, text without an encoder or the other way round.
        """
        backbone = networks["backbone"]
        cond = {key: batch[key] for key in CONDITION_KEYS if key in batch and key != "known"}
        if "known" in batch and "known" in backbone.reads:  # others see from t = 0 that a frame is given
            cond["known"] = batch["known"]
        if self.vector or self.constants:
            cond["vector"] = {name: batch[name] for name in self.vector} | self._constants(batch)
        if worse is not None:
            cond |= self._made_worse(batch, cond, worse)
        null = {key: empty_value(key) for key in self.dropout if key != "tokens"}
        if ("text" in networks) != ("text_ids" in batch):
            has, lacks = ("an encoder", "the batch no 'text_ids'") if "text" in networks else ("text", "no encoder")
            raise ValueError(f"text: there is {has}, but {lacks}")
        if "text" in networks:
            encoder, dtype = networks["text"], compute_dtype(backbone)
            ids, mask = batch["text_ids"], batch["text_mask"]  # [B, L], packed [B, K, L]
            text = encoder(ids.reshape(-1, ids.shape[-1]), mask.reshape(-1, mask.shape[-1]), dtype)
            cond |= {key: value.reshape(*ids.shape[:-1], *value.shape[1:]) for key, value in text.items()}
            if "tokens" in self.dropout:
                null |= encoder(jnp.asarray([self.null_ids]), jnp.asarray([self.null_mask]), dtype)
        elif "tokens" in self.dropout and "null" in networks:
            null |= networks["null"]()
        may_read = getattr(backbone, "may_read", backbone.reads)
        cond = with_pictures(cond, may_read, *leading_shape(batch[self.clip]))
        check_condition(cond, may_read, type(backbone).__name__)
        return cond, null

    def _made_worse(self, batch: Batch, cond: Condition, keys: Array) -> dict[str, Any]:
        """The conditions that `corruption` changes."""
        value, level = self.corruption(batch, keys)
        told = {"vector": {**cond["vector"], self.corruption.told: level}} if self.corruption.told else {}
        return {self.corruption.key: value, **told}

    def _with_tasks(self, batch: Batch, keys: Array | None) -> Batch:
        """The batch with what `masks` give of each example."""
        if self.masks is None:
            return batch
        if "known" in batch or "segments" in batch:
            raise ValueError("masks: draw what is given, but the batch says it (known), or has packed clips (segments)")
        clip = batch[self.clip]
        shape = jnp.shape(clip)[1:4] if jnp.ndim(clip) == 5 else leading_shape(clip)[1:]
        task = draw_tasks(self.masks, keys, shape)
        told = dict(task.told or {})
        if "length" in told and "length" in batch:
            told["length"] = jnp.minimum(told["length"], batch["length"])
        return {**batch, "known": task.known, **told} | ({} if task.counts is None else {"counts": task.counts})

    def _constants(self, batch: Batch) -> dict[str, Array]:
        """Those entries for every clip, `[B]`, or `[B, K]` of packed clips."""
        shape = batch["index"].shape if "segments" in batch else leading_shape(batch[self.clip])[:1]
        return {name: jnp.full(shape, value, jnp.float32) for name, value in self.constants.items()}

    def _errors(self, backbone, batch: Batch, cond: Condition, time: Time, keys: Array) -> tuple[Array, Array]:
        """(weighted, unweighted) squared error, means over examples."""
        process = self.process
        x0 = jax.tree.map(as_float, batch[self.clip])
        noise = draw_noise(self.noise, keys, x0, batch)
        known = check_mask(batch["known"], x0) if "known" in batch else None
        counts = _counting(batch, leading_shape(x0)[1])
        if known is not None and self.known_way == "clean":
            time = jnp.where(given_frames(known), 0.0, time)
        x_t = process.q_sample(x0, noise, time)
        if known is not None:
            shown = x0 if self.known_level == 0 else process.q_sample(x0, noise, jnp.full_like(time, self.known_level))
            x_t = jax.tree.map(lambda x, y: jnp.where(_like(known, x), x, y), shown, x_t)

        dtype = compute_dtype(backbone)
        fed = jax.tree.map(lambda x: x.astype(dtype), process.network_input(x_t, time))
        output = backbone(fed, process.network_time(time), cond)
        target = process.target(x0, noise, time)
        weight = process.weight(time)
        share = None if "segments" not in batch else packing.shares(batch["segments"], clips_of(batch))

        pairs = [
            _leaf_errors(
                y.astype(jnp.float32) - z,
                expand(weight, z),
                _judged(known, counts, z),
                None if share is None else expand(share, z),
                self.mean_over,
            )
            for y, z in zip(jax.tree.leaves(output), jax.tree.leaves(target), strict=True)
        ]
        return sum(p[0] for p in pairs) / len(pairs), sum(p[1] for p in pairs) / len(pairs)


def clips_of(batch: Batch) -> int:
    """K, the clips of each packed sequence.

    Raises:
      ValueError: the batch does not say, or holds what packed clips cannot have.
    """
    if jnp.ndim(batch.get("index", 0)) != 2:
        raise ValueError("segments: packed clips need 'index' [B, K] in the batch")
    if "known" in batch:
        raise ValueError("known: nothing can be given of packed clips")
    return batch["index"].shape[1]


def _leaf_errors(
    error: Array, weight: Array, judged: Array | None, share: Array | None, mean_over: str
) -> tuple[Array, Array]:
    """Weighted and plain mean square of one leaf: over what is judged of each example (or all), then over examples."""
    dims = tuple(range(1, error.ndim))
    if judged is None:
        square = error**2 if share is None else share * error**2
        return (weight * square).mean(), square.mean()
    judged = jnp.broadcast_to(judged, error.shape)
    # Masked before they meet: target and weight of a given frame may be infinite, and 0 * inf is not 0.
    square, weighted = jnp.where(judged, error, 0.0) ** 2, jnp.where(judged, weight, 0.0)
    if mean_over == "all":
        return (weighted * square).mean(), square.mean()
    total = jnp.maximum(judged.sum(dims), 1)
    return ((weighted * square).sum(dims) / total).mean(), (square.sum(dims) / total).mean()


def _counting(batch: Batch, frames: int) -> Array | None:
    """`[B, T]` bool, frames that count by `counts` and by `length`; None is all."""
    counts = batch.get("counts")
    if "length" not in batch:
        return counts
    there = jnp.arange(frames) < batch["length"][:, None]
    return there if counts is None else counts & there


def _judged(known: Array | None, counts: Array | None, leaf: Array) -> Array | None:
    """What of a leaf the error is taken of; None is all."""
    if known is None:
        return None if counts is None else expand(counts, leaf)
    return ~_like(known, leaf) if counts is None else ~_like(known, leaf) & expand(counts, leaf)


def _like(known: Array, leaf: Array) -> Array:
    """`known`, `[B, T]` or `[B, T, H, W, 1]`, with the rank of `leaf`."""
    return expand(known, leaf) if known.ndim == 2 else known


def drop_per_example(cond: Condition, null: Condition, rates: Mapping[str, float], keys: Array) -> dict[str, Any]:
    """`drop_conditions` with a key for each example, so that the draw does not depend on the microbatch."""
    if not rates:
        return dict(cond)

    def one(cond: Condition, key: Array) -> Condition:
        dropped = drop_conditions(jax.tree.map(lambda x: x[None], cond), null, rates, key)
        return jax.tree.map(lambda x: x[0], dropped)

    return jax.vmap(one)(dict(cond), keys)


def _drop_per_clip(cond: Condition, null: Condition, rates: Mapping[str, float], keys: Array) -> dict[str, Any]:
    """`drop_per_example` over packed clips: of what is `[B, K, ...]`, with keys `[B, K]`."""
    per_clip = {key: cond[key] for key in ("tokens", "tokens_mask", "vector") if key in cond}
    for key in rates:
        if key.partition(".")[0] not in per_clip:
            raise ValueError(f"dropout: {key!r} is not dropped clip by clip, so not with packed clips")
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), per_clip)
    dropped = drop_per_example(flat, null, rates, keys.reshape(-1))
    return {**cond, **jax.tree.map(lambda x: x.reshape(*keys.shape, *x.shape[1:]), dropped)}


def empty_value(key: str) -> Any:
    """What "unconditional" is for any condition key but `tokens`, to be broadcast; see `types.CONDITION_KEYS`."""
    if key.startswith("vector."):
        return -1
    return {"camera": jnp.eye(3, 4), "known": False}.get(key, 0)


def as_float(x: Array) -> Array:
    """uint8 pixels to float32 in [-1, 1]; floats to float32."""
    return x.astype(jnp.float32) / 127.5 - 1.0 if x.dtype == jnp.uint8 else x.astype(jnp.float32)


def given_frames(known: Array) -> Array:
    """`[B, T]` bool: frames that are given entirely, from `[B, T]` or `[B, T, H, W, 1]`."""
    return known if known.ndim == 2 else known.all(axis=tuple(range(2, known.ndim)))


def compute_dtype(network: nnx.Module) -> jnp.dtype:
    """The dtype of a network's floating parameters, which is what it is to compute in."""
    leaves = jax.tree.leaves(nnx.state(network, nnx.Param))
    return next(leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating))
