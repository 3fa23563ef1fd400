"""Clips that come as latents, with text features and other conditions made beforehand (`vdm encode`).

What such a set holds must be what the networks read: the right latents, every condition in its shape, made by the very
encoders that the weights were trained with.  All of it is compared before anything is compiled.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from data_pipelines.loading.loader import DataConfig
from data_pipelines.loading.stored import Stored, stored_in
from data_pipelines.shards.latents import VECTOR, LatentSpec
from vdm_jax.errors import did_you_mean
from vdm_jax.interop.finetuning.origin import Origin, digest_of
from vdm_jax.interop.imported import open_imported, records_of
from vdm_jax.sampling.noise import NoiseSource, noise_from
from vdm_jax.sharding import LogicalRules, activation_sharding, replicated
from vdm_jax.training.run_config import RunConfig
from vdm_jax.types import CONDITION_KEYS

_OF_EVERY_CLIP = ("fps", "label")  # entries of `vector` that come with any clip


def stored_for(config: RunConfig, data: DataConfig, origin: Origin | None) -> Stored | None:
    """What the latent sets of a run hold; None where they hold pixels.

    Raises:
      ValueError: no such set; one that lacks what the networks read, or was made by other encoders than those of the
        weights that training starts from.
      RunError: a damaged manifest.
    """
    stored = stored_in(list(dict.fromkeys([data.shards, *data.training_sets])))
    if stored is None:
        _check_pixels(config, data.shards)
        if lacking := sorted(noise_of(config).reads - set(data.fields)):
            raise ValueError(f"data.fields: objective.noise reads {lacking[0]!r} of each clip, and it is not in fields")
    else:
        _check_latents(config, stored.spec, data.shards)
        _check_null(config, stored, data.shards)
        _check_encoders(stored, data.shards, origin)
    return stored


def read_conditions(config: RunConfig, stored: Stored | None) -> list[str] | None:
    """Names of the stored conditions that the networks read; None where there are none to choose from."""
    if stored is None:
        return None
    read = set(config.may_read) | {f"{VECTOR}{name}" for name in config.train.vector}
    read |= {"known"} | ({"tokens_mask"} if config.train.tokens_mask else set())
    read |= noise_of(config).reads
    read -= {"tokens"} if config.networks.text else set()
    return [name for name in stored.conditions if name in read]


def noise_of(config: RunConfig) -> NoiseSource:
    """Where the noise of training comes from."""
    return noise_from(getattr(config.objective, "noise", None), "config.objective.noise")


def condition_of(config: RunConfig, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The condition that a sampler is given for the clips of a batch."""
    cond = {name: value for name, value in batch.items() if name in CONDITION_KEYS and name != "known"}
    vector = {name: batch[name] for name in config.train.vector}
    for name, value in config.train.constants.items():
        vector[name] = np.full(len(batch["index"]), value, np.float32)
    return {**cond, "vector": vector} if vector else cond


def with_null(params: Mapping[str, Any], stored: Stored | None, abstract: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters whose network `null`, where they have one, holds the features of the empty prompt.

    Args:
      params: `{network: nested dict}`.
      stored: what the data holds.
      abstract: like `params`, with shardings.
    """
    if "null" not in abstract:
        return dict(params)
    placed = {}
    for path, leaf in flatten_dict(abstract["null"]).items():
        name = {"tokens": "tokens", "mask": "tokens_mask"}[path[-1]]
        value = np.zeros(leaf.shape, leaf.dtype)
        if name in stored.null:
            value[...] = stored.null[name][0]
        placed[path] = jax.make_array_from_callback(leaf.shape, leaf.sharding, value.__getitem__)
    return {**params, "null": unflatten_dict(placed)}


class Decoder:
    """The autoencoder of an import, read when it is needed and let go afterwards.

    Args:
      run, component: where it is.
      mesh: of the run.
    """

    def __init__(self, run: Path, component: str, mesh: Mesh):
        self._where, self._mesh, self._compiled = (run, component), mesh, None

    def __call__(self, latents: jax.Array) -> np.ndarray:
        """Latents as the denoiser sees them, `[B, t, h, w, c]` -> clips `[B, T, H, W, 3]` in [-1, 1], one by one."""
        run, component = self._where
        found = open_imported(run, component, self._mesh)[component]
        graph, state = nnx.split(found.network())
        if self._compiled is None:

            def decode(state: nnx.State, latents: jax.Array) -> jax.Array:
                with activation_sharding(self._mesh, LogicalRules()):
                    restored = found.config.scale.restore(latents)
                    return nnx.merge(graph, state).decode(restored, chunk=1).astype(np.float32)

            self._compiled = jax.jit(decode, out_shardings=replicated(self._mesh))
        clips = [jax.device_get(self._compiled(state, latents[i : i + 1])) for i in range(len(latents))]
        return np.concatenate(clips)


def _check_pixels(config: RunConfig, shards: str) -> None:
    missing = sorted(config.given)
    if missing or config.clip_shape[3] != 3:
        lacks = f" without {', '.join(missing)}" if missing else ""
        raise ValueError(
            f"data.shards: {shards} holds pixels{lacks}, the model reads latents of {config.clip_shape[3]} channels;"
            " `vdm encode` makes them"
        )


def _check_latents(config: RunConfig, spec: LatentSpec, shards: str) -> None:
    channels = config.clip_shape[3]
    if spec.channels != channels:
        raise ValueError(f"data.shards: {shards} holds latents of {spec.channels} channels, the model has {channels}")
    wanted = {name: shape for name, (shape, _) in config.given.items()}
    wanted |= {f"{VECTOR}{name}": () for name in config.train.vector if name not in _OF_EVERY_CLIP}
    wanted |= {"tokens_mask": (config.networks.tokens,)} if config.train.tokens_mask else {}
    for name in sorted(noise_of(config).reads - spec.conditions.keys()):
        made = "; `vdm encode --flow` stores it" if name == "flow" else ""
        raise ValueError(f"data.shards: objective.noise reads {name!r} of each clip, and {shards} has none{made}")
    for name, shape in wanted.items():
        if name not in spec.conditions:
            raise ValueError(f"data.shards: conditions of {shards}: {did_you_mean(name, spec.conditions)}")
        found = spec.conditions[name].shape
        if name == "concat" and found[-1] != shape[-1]:
            raise ValueError(f"data.shards: concat of {shards} has {found[-1]} channels, the model reads {shape[-1]}")
        if name != "concat" and found != shape:
            raise ValueError(_another_shape(name, found, shape, shards))


def _another_shape(name: str, found: Sequence[int], wanted: Sequence[int], shards: str) -> str:
    if name == "tokens" and found[-1] == wanted[-1]:
        return f"train.tokens: {wanted[0]}, but {shards} has {found[0]} text tokens a clip"
    if name == "tokens":
        return (
            f"data.shards: text features of {shards} are {found[-1]} wide, the model reads {wanted[-1]}"
            " (model.text_dim): they were made by another encoder"
        )
    return f"data.shards: {name} of {shards} is {list(found)}, the model reads {list(wanted)}"


def _check_null(config: RunConfig, stored: Stored, shards: str) -> None:
    """Whoever drops text or is guided by it must know what stands for none."""
    if not config.networks.tokens or "tokens" in stored.null:
        return
    for field, used in (
        ("train.dropout", config.train.dropout.get("tokens", 0.0) > 0.0),
        ("sample.guidance", config.sample.guidance != 1.0),
    ):
        if used:
            raise ValueError(f"config.{field}: needs the features of the empty prompt, and {shards} has none")


def _check_encoders(stored: Stored, shards: str, origin: Origin | None) -> None:
    """The encoders that made a set must be those of the import that training starts from, where that is known."""
    if origin is None or origin.pipeline is None or not Path(origin.pipeline).is_dir():
        return
    pipeline = Path(origin.pipeline)
    records = records_of(pipeline)
    for name, made in stored.encoders.items():
        if name in records and made["digest"] != (own := digest_of(pipeline, name)):
            raise ValueError(
                f"data.shards: {shards} was made by another {name} than that of {pipeline}, from which training starts"
                f" (weights {made['digest'][:12]}, there {own[:12]}); encode the clips again"
            )
