"""From trained networks to clips: the sampler with the choices a person makes.

generate = make_generator(process, merge, SampleConfig(steps=30, guidance=3.0), (8, 16, 16, 3), null)
clips = generate(params, tokenizer.encode(prompts), jax.random.key(0))             # float [B, T, H, W, 3]
clips = generate(params, {"tokens": ..., "concat": ...}, jax.random.key(0))        # of features made beforehand
clips = generate(params, text, jax.random.key(0), {"flow": flow})                  # from noise that reads something
clips = generate(params, text, jax.random.key(0), known=Known(mask, clips))        # where some frames are given
"""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from vdm_jax.adapters.windows import window_attention
from vdm_jax.diffusion.conditioning import with_pictures
from vdm_jax.diffusion.configuration import SOLVERS
from vdm_jax.diffusion.consistency import LCM, ConsistencyGrid
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.windows import Windows
from vdm_jax.errors import did_you_mean
from vdm_jax.sampling.codenoise import codenoised
from vdm_jax.sampling.denoiser import make_denoiser
from vdm_jax.sampling.guidance import guided
from vdm_jax.sampling.known import Known, check_known, paste, replace_known
from vdm_jax.sampling.noise import INDEPENDENT, draw, noise_from
from vdm_jax.sampling.noise.similar import FrameSimilarityPrior
from vdm_jax.sampling.ramps import linear
from vdm_jax.sampling.sampler import Hooks, sample
from vdm_jax.sampling.tau import from_level, uniform
from vdm_jax.sharding import LogicalRules, activation_sharding, constrain, replicated
from vdm_jax.types import Array

Merge = Callable[[Any], Mapping[str, nnx.Module]]
MOST_GUIDANCE = 2.0  # of a distilled model, which has its teacher's guidance within
ZEROED = ("concat", "image", "hint", "audio")  # conditions that are zeros where there is none


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """How clips are sampled.

    Attributes:
      steps: of the solver.
      solver: a name of `diffusion.SOLVERS`.
      guidance: scale; 1 is none.
      guidance_from: scale at the first frame, from which it rises evenly to `guidance` at the last (`sampling.ramps`);
        None is the same for all frames.
      guidance_also: conditions beside the prompt that guidance goes towards, of `ZEROED`.
      guidance_rescale: how much of the guided belief's contrast is set back to the conditional one's (2305.08891).
      clip_x0: keep beliefs within [-1, 1]; for pixels, not for latents.
      ema: which average of the weights to use; None for the raw weights.
      repaste: given frames come back as they are; False takes the network's word for them, which drifts a little in
        every step, as in FVDM's released sampler (arXiv 2410.03160).
      noise: what clips start from, a section with a `kind` of `sampling.noise.NOISES`; None is plain noise.
      prior: that clips start from a frame that is given, noised to a level, and not from noise alone
        (`sampling.noise.similar`); a section with the fields of `FrameSimilarityPrior`.
      frames: of the clips; 0 is as many as the run was trained on.
      windows: through which temporal attention looks at longer clips, a section with the fields of `Windows`
        (`adapters.windows`); None is all frames.
      co_denoise: windows that are denoised each by itself and averaged (`sampling.codenoise`); None is the whole clip.
    """

    steps: int = 30
    solver: str = "ddim"
    guidance: float = 3.0
    guidance_from: float | None = None
    guidance_also: tuple[str, ...] = ()
    guidance_rescale: float = 0.0
    clip_x0: bool = True
    ema: float | None = None
    repaste: bool = True
    noise: dict | None = None
    prior: FrameSimilarityPrior | None = None
    frames: int = 0
    windows: Windows | None = None
    co_denoise: Windows | None = None

    def __post_init__(self):
        noise_from(self.noise, "noise")
        if self.prior is not None and self.noise is not None:
            raise ValueError("prior: draws plain noise of its own, and noise is another; leave one of the two out")
        if self.steps < 1:
            raise ValueError(f"steps: {self.steps!r} must be 1 or more")
        if self.solver not in SOLVERS:
            raise ValueError(f"solver: {did_you_mean(self.solver, SOLVERS)}")
        for key in self.guidance_also:
            if key not in ZEROED:
                raise ValueError(f"guidance_also: {did_you_mean(key, ZEROED)}")
        if self.frames < 0:
            raise ValueError(f"frames: {self.frames!r} must be 1 or more, or 0 for as many as in training")
        if self.windows is not None and self.co_denoise is not None:
            raise ValueError("co_denoise: there are windows in the attention already; one of the two is enough")

    def scale(self, frames: int) -> float | np.ndarray:
        """Guidance of every frame, a number or `[T]`."""
        return self.guidance if self.guidance_from is None else linear(self.guidance_from, self.guidance, frames)


def check_distilled(grid: ConsistencyGrid, process: Process, config: SampleConfig) -> None:
    """Refuses choices that a consistency model cannot be sampled with; raises ValueError."""
    if config.prior is not None:
        raise ValueError("prior: begins between the levels that a distilled model knows; set it to None")
    if config.solver != "lcm":
        raise ValueError(f"solver: {config.solver!r} does not sample a model distilled by consistency; use 'lcm'")
    grid.sampled(process, config.steps)


def make_generator(
    process: Process,
    merge: Merge,
    config: SampleConfig,
    clip_shape: tuple[int, int, int, int],
    null: Mapping[str, np.ndarray] | None,
    mesh: Mesh | None = None,
    known_way: str = "clean",
    distilled: ConsistencyGrid | None = None,
) -> Callable[..., Array]:
    """Builds the compiled sampler of one clip shape.

    Args:
      process: the networks were trained with.
      merge: parameters -> `{"backbone": module, ...}`, as `NetworkDefinitions.merge`; with a `text` encoder, or with
        `null`, what the empty prompt is where prompts come as features.
      config: see `SampleConfig`.
      clip_shape: (T, H, W, C); `config.frames` stands for T where it is said.
      null: the tokenised empty prompt, `text_ids [1, L]` and `text_mask [1, L]`; None without a text encoder.
      mesh: where the parameters are; clips are split over it as in training, and come back whole on each device.
      known_way: how given frames were shown in training, `clean` or `shared` (see `known`).
      distilled: the levels that a consistency model knows; sampling then visits some of them.

    Returns:
      `generate(params, given, key) -> float32 [B, T, H, W, C]`, where `given` holds `text_ids [B, L]` and
      `text_mask [B, L]`, or the condition itself where features come ready, or is the batch size B of an unconditional
      model.  A fourth argument, `{key: [B, ...]}`, is what the noise source reads (`NoiseSource.reads`), a fifth,
      `known`, what is given of the clips (`sampling.Known`).  It raises ValueError if B is not at least 1, if the
      source or the prior lacks something, or if what is known does not fit the clips.
    """
    shape = (config.frames or clip_shape[0], *clip_shape[1:])
    drawing = _Drawing(process, merge, config, shape, null, known_way, distilled)
    drawing.check()

    def on_mesh(*arguments) -> Array:
        with activation_sharding(mesh, LogicalRules()):
            return drawing(*arguments)

    compiled = jax.jit(
        drawing if mesh is None else on_mesh,
        static_argnums=5,
        out_shardings=None if mesh is None else replicated(mesh),
    )

    def generate(
        params: Any,
        given: Mapping[str, Any] | int,
        key: Array,
        read: Mapping[str, Any] | None = None,
        known: Known | None = None,
    ) -> Array:
        key = np.asarray(jax.random.key_data(key))  # on the host, so that it can go to devices of several processes
        if isinstance(given, int) and given < 1:
            raise ValueError(f"given: {given} is not a number of clips; at least 1")
        batch = given if isinstance(given, int) else len(jax.tree.leaves(given)[0])
        if known is not None:
            known = check_known(known, jax.ShapeDtypeStruct((batch, *drawing.shape), jnp.float32))
        if config.prior is not None and (known is None or not known.whole_frames):
            raise ValueError("sample.prior: starts from a frame that is given, and no whole frame is (known)")
        cond = {} if isinstance(given, int) else dict(given)
        return compiled(params, cond, dict(read or {}), known, key, batch)

    return generate


@dataclasses.dataclass(frozen=True, eq=False)
class _Drawing:
    """What is compiled: everything between parameters and clips; attributes as of `make_generator`."""

    process: Process
    merge: Merge
    config: SampleConfig
    shape: tuple[int, int, int, int]
    null: Mapping[str, np.ndarray] | None
    known_way: str
    distilled: ConsistencyGrid | None

    def check(self) -> None:
        """Says what can be said before anything is compiled; raises ValueError for windows that leave frames out."""
        for windows in (self.config.windows, self.config.co_denoise):
            if windows is not None:
                windows.starts(self.shape[0])
        if self.distilled is not None:
            check_distilled(self.distilled, self.process, self.config)
            if self.config.guidance > MOST_GUIDANCE:
                warnings.warn(
                    f"sample.guidance: {self.config.guidance:g} on top of the teacher's, which a distilled model has"
                    f" taken in; {MOST_GUIDANCE:g} or less is usual",
                    stacklevel=3,
                )
        source = noise_from(self.config.noise, "noise")
        if source != INDEPENDENT and SOLVERS[self.config.solver]().stochastic:
            warnings.warn(
                f"sample.solver: {self.config.solver} draws plain noise at every step, which weakens what"
                f" {type(source).__name__} noise brings",
                stacklevel=3,
            )

    def __call__(
        self,
        params: Any,
        given: Mapping[str, Any],
        read: Mapping[str, Any],
        known: Known | None,
        key: Array,
        batch: int,
    ) -> Array:
        config, process = self.config, self.process
        networks, key = self.merge(params), jax.random.wrap_key_data(key)
        if config.windows is not None:
            window_attention(networks["backbone"], config.windows, self.shape[0])
        denoiser = make_denoiser(process, networks["backbone"])
        cond, empty = _conditions(networks, given, self.null)
        if "known" in getattr(networks["backbone"], "reads", ()):
            cond["known"] = jnp.zeros((batch, self.shape[0]), bool) if known is None else known.mask
        cond = with_pictures(cond, getattr(networks["backbone"], "may_read", ()), batch, self.shape[0])
        empty = {**empty, **self._also(cond)}
        if empty:
            denoiser = guided(denoiser, config.scale(self.shape[0]), empty, config.guidance_rescale)
        if config.co_denoise is not None:
            denoiser = codenoised(denoiser, config.co_denoise)
        prior_key, loop_key = jax.random.split(key)
        grid = self.distilled
        levels = process.levels(config.steps) if grid is None else grid.sampled(process, config.steps)
        if config.prior is not None:
            levels = from_level(np.asarray(levels), config.prior.level(process))
        tau = uniform(np.asarray(levels), self.shape[0])
        hooks = Hooks(edit_x0=lambda x0, x_t, info: jnp.clip(x0, -1.0, 1.0)) if config.clip_x0 else Hooks()
        solver = SOLVERS[config.solver]() if grid is None else LCM(grid.scaling)
        options = {"rng": loop_key, "solver": solver, "hooks": hooks}
        if known is not None and self.known_way == "shared":  # given frames go down the levels with the others
            denoiser = replace_known(denoiser, process, known, way="shared")
        elif known is not None:
            options |= {"known": known, "repaste": config.repaste}
        return sample(denoiser, process, self._start(prior_key, batch, read, known), tau, cond, **options)

    def _also(self, cond: Mapping[str, Any]) -> dict[str, float]:
        """What stands for none of the conditions beside the prompt that guidance goes towards."""
        if lacking := sorted(set(self.config.guidance_also) - cond.keys()):
            raise ValueError(f"sample.guidance_also: {did_you_mean(lacking[0], cond)} (the conditions of these clips)")
        return dict.fromkeys(self.config.guidance_also, 0.0)

    def _start(self, key: Array, batch: int, read: Mapping[str, Any], known: Known | None) -> Array:
        """What the clips start from."""
        source, like = noise_from(self.config.noise, "noise"), jnp.zeros((batch, *self.shape))
        if self.config.prior is not None:
            last = self.shape[0] - 1 - jnp.argmax(known.mask[:, ::-1], axis=1)  # nearest to what a longer video lacks
            picture = jnp.take_along_axis(known.value, last[:, None, None, None, None], axis=1)[:, 0]
            return paste(known, self.config.prior.noised(key, self.process, picture, like))
        noise = None if source == INDEPENDENT else draw(source, jax.random.split(key, batch), like, read)
        return constrain(self.process.prior(key, like, noise), "batch", None, None, None, None)


def _conditions(networks: Mapping[str, nnx.Module], given: Mapping[str, Any], null: Mapping[str, np.ndarray] | None):
    """The condition, and what its keys are without guidance; empty where there is nothing to guide towards."""
    if null is not None:
        encode = networks["text"]
        empty = encode(jnp.asarray(null["text_ids"]), jnp.asarray(null["text_mask"]))
        return encode(given["text_ids"], given["text_mask"]), empty
    return dict(given), networks["null"]() if "null" in networks else {}
