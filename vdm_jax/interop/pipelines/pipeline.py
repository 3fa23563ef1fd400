"""What every published pipeline is, and the one way they are all run.

    request -> complete -> conditions (encoders) -> noise -> K steps, one program -> latents -> decode -> clips

A family says how a request is completed, what it conditions its network on and how latents become pixels; the steps are
those of `interop.schedulers`, taken by `sampling.sample`.  Guidance acts on x_0 here and on the network's output there,
which is the same, as one is linear in the other.  Latents are compared with theirs in published units (`Plan.unit`).

Weights are read when they are needed: those of encoders are gone before the denoiser's come.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion.process import Process
from vdm_jax.interop.finetuning.prompts import Encoded, Reading
from vdm_jax.interop.pipelines.opened import Opened
from vdm_jax.interop.pipelines.request import (
    Conditions,
    Defaults,
    Draws,
    Generation,
    Request,
    Sampled,
    check_inputs,
    filled,
)
from vdm_jax.interop.schedulers.plans import Plan
from vdm_jax.models.autoencoders import Posterior
from vdm_jax.sampling import Denoiser, Known, guided, make_denoiser, sample
from vdm_jax.sampling.denoiser import Network
from vdm_jax.sampling.noise import INDEPENDENT, NoiseSource, draw
from vdm_jax.sharding import batch_shards, constrain
from vdm_jax.types import Array, Clip, Condition

Networks = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Again:
    """Clips that are made several times, each time from noise that the last one had a part in.

    Attributes:
      times: R, how often in all.
      noise: traced, (latents of the last time in published units, the noise that the first one began with, standard
        normal noise) -> noise of the next.
    """

    times: int
    noise: Callable[[Array, Array, Array], Array]


class Pipeline(abc.ABC):
    """A published pipeline, opened.

    Args:
      opened: its parts.

    Raises:
      ValueError: a part is missing.
    """

    parts: ClassVar[tuple[str, ...]] = ("text_encoder", "transformer", "vae")  # networks that must be there
    denoisers: tuple[str, ...] = ("transformer",)  # those that take the steps
    takes: frozenset[str] = frozenset()  # of `request.INPUTS`, what may be given
    needs: frozenset[str] = frozenset()  # and what must be

    def __init__(self, opened: Opened):
        self.opened = opened
        if missing := [name for name in self.parts if name not in opened.parts]:
            raise ValueError(f"{opened.run}: lacks {', '.join(missing)}; {opened.published} needs it")

    @property
    def process(self) -> Process:
        """What the weights were trained with."""
        return self.opened.scheduler.process

    @property
    @abc.abstractmethod
    def defaults(self) -> Defaults:
        """What is done where a request says nothing."""

    @abc.abstractmethod
    def conditions(self, request: Request, draws: Draws) -> Conditions:
        """Runs the encoders on a completed request."""

    @property
    def multiples(self) -> tuple[int, int]:
        """What height and width must be multiples of: an autoencoder's pixel, times a patch where there are such."""
        side = self.opened.part("vae").config.grid.side
        return side, side

    def latent_shape(self, request: Request) -> tuple[int, int, int, int]:
        """`(t, h, w, c)` of a completed request."""
        vae = self.opened.part("vae").config
        frames = vae.grid.latent_frames(request.frames)
        return frames, request.height // vae.grid.side, request.width // vae.grid.side, vae.latent_channels

    def complete(self, request: Request) -> Request:
        """Fills in the defaults and checks everything that can be checked before anything is compiled.

        Raises:
          ValueError: names the field and what is allowed.
        """
        check_inputs(request, self.opened.published, self.takes, self.needs)
        request = filled(request, self.defaults)
        for name, multiple in zip(("height", "width"), self.multiples):
            check_multiple(name, getattr(request, name), multiple)
        self.opened.part("vae").config.grid.check_clip((1, request.frames, request.height, request.width, 3))
        return request

    def plan(self, request: Request) -> Plan:
        """The steps of a completed request.

        Raises:
          ValueError: see `Scheduler.plan` and `Plan.part`.
        """
        plan = self.opened.scheduler.plan(request.steps)
        return plan if request.video is None or request.strength is None else plan.part(request.strength)

    def noise(self, request: Request) -> NoiseSource:
        """What the clips of a completed request start from where the caller gives no noise."""
        return INDEPENDENT

    def again(self, request: Request) -> Again | None:
        """How a completed request is made more than once; None is once."""
        return None

    def denoiser(self, networks: Networks, plan: Plan, request: Request, null: Mapping[str, Any] | None) -> Denoiser:
        """The denoisers, guided; `networks` are those of `denoisers`, ready to be called on float32."""
        (network,) = networks.values()
        denoiser = make_denoiser(self.process, network, plan.told_by(self.process))
        return denoiser if null is None else guided(denoiser, request.guidance, null)

    def decode(self, vae: Any, latents: Array, request: Request) -> Array:
        """Traced: latents in published units to a clip `[B, T, H, W, 3]` in [-1, 1]; one latent frame at a time."""
        dtype = self.opened.part("vae").dtype
        return vae.decode(vae.config.scale.restore(latents).astype(dtype), chunk=1)

    def posterior(self, vae: Any, clip: Array) -> Posterior:
        """Traced: a clip `[B, T, H, W, 3]` in [-1, 1] to the distribution of its latents; a latent frame at a time."""
        return vae.encode(clip, chunk=1)

    def call(self, name: str, network: Any) -> Network:
        """A network that computes in its own dtype, and takes and gives float32."""
        dtype = self.opened.part(name).dtype

        def run(x: Clip, t: Array, cond: Condition) -> Clip:
            return network(x.astype(dtype), t, cond).astype(jnp.float32)

        return run

    def prompts(self, request: Request, reading: Reading, length: int | None) -> tuple[Encoded, Encoded, dict]:
        """Prompts, and the negative one for each, encoded; and what was cut off.  See `PromptEncoder.encode`."""
        texts = [*request.prompts, request.negative or ""]
        encoder = self.opened.prompt_encoder(reading, length, len(set(texts)))
        made = encoder.encode(texts)
        found = {name: rows[:-1] for name, rows in made.items()}
        return found, {name: rows[-1:] for name, rows in made.items()}, dict(encoder.cut)

    def encode(self, clip: np.ndarray, latents: Callable[[Any], Array] = lambda posterior: posterior.mode()) -> Any:
        """Pixels `[B, T, H, W, 3]` in [-1, 1] to latents on the host, not normalised; in bounded memory."""
        part = self.opened.part("vae")

        def run(params, clip):
            posterior = self.posterior(part.merge(params), clip.astype(part.dtype))
            return latents(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), posterior))

        return jax.device_get(self.opened.compiled(run)(self.opened.weights("vae"), clip))


def check_multiple(name: str, size: int, multiple: int) -> None:
    """Raises ValueError, with the nearest sizes that would do, unless `size` is a multiple."""
    if size % multiple:
        below, above = size // multiple * multiple, -(-size // multiple) * multiple
        near = f"{below} or {above}" if below else f"{above}"
        raise ValueError(f"{name}: {size} cannot be represented, only multiples of {multiple}; the nearest: {near}")


def generate(
    pipeline: Pipeline, request: Request, *, batch: int | None = None, draws: Draws | None = None, record: bool = False
) -> Generation:
    """Makes clips.

    Args:
      pipeline: opened.
      request: what is asked for; checked, and its prompts and pictures encoded, before this returns.
      batch: clips made at once; None is one, or one for each part of the mesh that has clips of its own.
      draws: noise in place of what the seed would draw; None draws all.
      record: also give the latents after each step.

    Returns:
      See `Generation`.

    Raises:
      ValueError: a request that cannot be honoured.
      RunError: weights that cannot be read.
    """
    request, draws = pipeline.complete(request), draws or Draws()
    plan = pipeline.plan(request)
    shape = pipeline.latent_shape(request)
    again = pipeline.again(request)
    _check_draws(draws, (len(request.prompts), *shape), len(plan.told), again.times if again else 1)
    if batch is None:
        batch = 1 if pipeline.opened.mesh is None else batch_shards(pipeline.opened.mesh)
    found = pipeline.conditions(request, draws)
    return Generation(request, found.cut, _batches(pipeline, request, plan, found, draws, batch, record))


def _batches(pipeline: Pipeline, request, plan: Plan, found: Conditions, draws: Draws, batch, record):
    """Clips, a batch at a time; the last is filled up with repeats, so that one program makes all."""
    opened, count = pipeline.opened, len(request.prompts)
    steps = opened.compiled(_steps(pipeline, plan, request, (batch, *pipeline.latent_shape(request)), record))
    pixels = opened.compiled(lambda params, latents: _pixels(pipeline, request, params, latents))
    weights, vae = {name: opened.weights(name) for name in pipeline.denoisers}, opened.weights("vae")
    shared = dataclasses.replace(found, cut={})
    for start in range(0, count, batch):
        rows = np.minimum(np.arange(start, start + batch), count - 1)
        keys = jax.vmap(lambda row: jax.random.key_data(jax.random.fold_in(jax.random.key(request.seed), row)))(rows)
        mine = {field.name: _rows(getattr(shared, field.name), rows) for field in dataclasses.fields(Conditions)}
        run = functools.partial(steps, weights, mine)
        latents, visited = _taken(pipeline, request, run, np.asarray(keys), draws, rows)
        video = pixels(vae, latents)
        keep = min(batch, count - start)
        video, latents = (np.asarray(jax.device_get(each))[:keep] for each in (video, latents))
        visited = None if visited is None else np.asarray(jax.device_get(visited))[:, :keep]
        yield Sampled(request.prompts[start : start + keep], video, latents, visited)


def _taken(pipeline: Pipeline, request: Request, run: Callable, keys: np.ndarray, draws: Draws, rows: np.ndarray):
    """The steps of one batch, taken as often as the pipeline takes them; `run` is `_steps` with all but noise and keys.

    Returns:
      Latents, and those after each step or None.
    """
    first, later = _rows(draws.latents, rows), None if draws.steps is None else np.asarray(draws.steps)[:, rows]
    again = pipeline.again(request)
    if again is None:
        return run((first, later), keys)
    shape = pipeline.latent_shape(request)
    begun, drawn = (
        pipeline.opened.compiled(lambda keys, source=source: _drawn(keys, shape, source))
        for source in (pipeline.noise(request), INDEPENDENT)
    )
    first, renewed = begun(keys) if first is None else first, pipeline.opened.compiled(again.noise)
    made = [run((first, later), keys)]
    for turn in range(1, again.times):
        keys = np.asarray(jax.random.key_data(jax.vmap(jax.random.fold_in, (0, None))(_keys(keys), turn)))
        new = drawn(keys) if draws.again is None else np.asarray(draws.again)[turn - 1, rows]
        made.append(run((renewed(made[-1][0], first, new), later), keys))
    latents, visited = zip(*made)
    return latents[-1], None if visited[0] is None else jnp.concatenate(visited)


def _keys(data: Array) -> Array:
    """Keys of clips: one each, so that what one starts from does not depend on the batch it is in."""
    return jax.random.wrap_key_data(data)


def _drawn(data: Array, shape: tuple[int, ...], source: NoiseSource) -> Array:
    """Noise `[B, *shape]`."""
    return draw(source, _keys(data), jnp.zeros((len(data), *shape)), {})


def _steps(pipeline: Pipeline, plan: Plan, request: Request, shape: tuple[int, ...], record: bool) -> Callable:
    """`(weights, conditions, noise, keys) -> latents, latents after each step or None`, to be compiled."""
    process, units, source = pipeline.process, np.float32(plan.units), pipeline.noise(request)

    def run(weights, found, noise, keys):
        networks = {name: pipeline.opened.part(name).merge(params) for name, params in weights.items()}
        networks = {name: pipeline.call(name, network) for name, network in networks.items()}
        denoiser = pipeline.denoiser(networks, plan, request, found["null"])
        first = _drawn(keys, shape[1:], source) if noise[0] is None else noise[0]
        x = plan.start(first) if found["start"] is None else process.q_sample(found["start"], first, plan.levels[0])
        x, given = constrain(x, "batch", None, None, None, None), None
        if found["given"] is not None:
            given = Known(jnp.broadcast_to(found["given_frames"], shape[:2]), found["given"])
        options = {"solver": plan.solver, "hooks": plan.hooks, "lands": plan.lands, "rising": plan.rising}
        where = {"rng": jax.random.fold_in(_keys(keys)[0], 1), "known": given, "noise": noise[1], "record": record}
        out = sample(denoiser, process, x, plan.levels, found["cond"], **options, **where)
        if not record:
            return units[-1] * out, None
        factors = units[1:].reshape(-1, *(1,) * x.ndim)
        return units[-1] * out[0], factors * out[1].x[1:]

    return run


def _pixels(pipeline: Pipeline, request: Request, params: Any, latents: Array) -> Array:
    """Latents to a clip in [0, 1]."""
    clip = pipeline.decode(pipeline.opened.part("vae").merge(params), latents, request)
    return jnp.clip(clip.astype(jnp.float32) / 2.0 + 0.5, 0.0, 1.0)


def _rows(tree: Any, rows: np.ndarray) -> Any:
    """Rows of arrays `[N, ...]`, or repeats of those that all clips share."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows if len(leaf) > 1 else 0 * rows], tree)


def _check_draws(draws: Draws, shape: tuple[int, ...], steps: int, times: int) -> None:
    for name, wanted in (("latents", shape), ("steps", (steps, *shape)), ("again", (times - 1, *shape))):
        found = getattr(draws, name)
        if found is not None and found.shape != wanted:
            raise ValueError(f"{name}: noise of shape {found.shape}, expected {wanted}")
