"""From trained networks to clips: the sampler with the choices a person makes.

generate = make_generator(process, merge, SampleConfig(steps=30, guidance=3.0), (8, 16, 16, 3), null)
clips = generate(params, tokenizer.encode(prompts), jax.random.key(0))             # float [B, T, H, W, 3]
clips = generate(params, {"tokens": ..., "concat": ...}, jax.random.key(0))        # of features made beforehand
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from vdm_jax.diffusion.configuration import SOLVERS
from vdm_jax.diffusion.process import Process
from vdm_jax.errors import did_you_mean
from vdm_jax.sampling.denoiser import make_denoiser
from vdm_jax.sampling.guidance import guided
from vdm_jax.sampling.sampler import Hooks, sample
from vdm_jax.sampling.tau import uniform
from vdm_jax.sharding import LogicalRules, activation_sharding, constrain, replicated
from vdm_jax.types import Array

Merge = Callable[[Any], Mapping[str, nnx.Module]]


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """How clips are sampled.

    Attributes:
      steps: of the solver.
      solver: a name of `diffusion.SOLVERS`.
      guidance: scale; 1 is none.
      guidance_rescale: how much of the guided belief's contrast is set back to the conditional one's (2305.08891).
      clip_x0: keep beliefs within [-1, 1]; for pixels, not for latents.
      ema: which average of the weights to use; None for the raw weights.
    """

    steps: int = 30
    solver: str = "ddim"
    guidance: float = 3.0
    guidance_rescale: float = 0.0
    clip_x0: bool = True
    ema: float | None = None

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps: {self.steps!r} must be 1 or more")
        if self.solver not in SOLVERS:
            raise ValueError(f"solver: {did_you_mean(self.solver, SOLVERS)}")


def make_generator(
    process: Process,
    merge: Merge,
    config: SampleConfig,
    clip_shape: tuple[int, int, int, int],
    null: Mapping[str, np.ndarray] | None,
    mesh: Mesh | None = None,
) -> Callable[..., Array]:
    """Builds the compiled sampler of one clip shape.

    Args:
      process: the networks were trained with.
      merge: parameters -> `{"backbone": module, ...}`, as `NetworkDefinitions.merge`; with a `text` encoder, or with
        `null`, what the empty prompt is where prompts come as features.
      config: see `SampleConfig`.
      clip_shape: (T, H, W, C).
      null: the tokenised empty prompt, `text_ids [1, L]` and `text_mask [1, L]`; None without a text encoder.
      mesh: where the parameters are; clips are split over it as in training, and come back whole on each device.

    Returns:
      `generate(params, given, key) -> float32 [B, T, H, W, C]`, where `given` holds `text_ids [B, L]` and
      `text_mask [B, L]`, or the condition itself where features come ready, or is the batch size B of an unconditional
      model.  It raises ValueError if B is not at least 1.
    """
    tau = uniform(np.asarray(process.levels(config.steps)), clip_shape[0])
    hooks = Hooks(edit_x0=lambda x0, x_t, info: jnp.clip(x0, -1.0, 1.0)) if config.clip_x0 else Hooks()
    solver = SOLVERS[config.solver]()

    def run(params: Any, given: Mapping[str, Any], key: Array, batch: int) -> Array:
        networks, key = merge(params), jax.random.wrap_key_data(key)
        denoiser = make_denoiser(process, networks["backbone"])
        cond, empty = _conditions(networks, given, null)
        if empty:
            denoiser = guided(denoiser, config.guidance, empty, config.guidance_rescale)
        prior_key, loop_key = jax.random.split(key)
        x_T = constrain(process.prior(prior_key, jnp.zeros((batch, *clip_shape))), "batch", None, None, None, None)
        return sample(denoiser, process, x_T, tau, cond, rng=loop_key, solver=solver, hooks=hooks)

    def on_mesh(*arguments) -> Array:
        with activation_sharding(mesh, LogicalRules()):
            return run(*arguments)

    compiled = jax.jit(
        run if mesh is None else on_mesh,
        static_argnums=3,
        out_shardings=None if mesh is None else replicated(mesh),
    )

    def generate(params: Any, given: Mapping[str, Any] | int, key: Array) -> Array:
        key = np.asarray(jax.random.key_data(key))  # on the host, so that it can go to devices of several processes
        if isinstance(given, int):
            if given < 1:
                raise ValueError(f"given: {given} is not a number of clips; at least 1")
            return compiled(params, {}, key, given)
        return compiled(params, dict(given), key, len(jax.tree.leaves(given)[0]))

    return generate


def _conditions(networks: Mapping[str, nnx.Module], given: Mapping[str, Any], null: Mapping[str, np.ndarray] | None):
    """The condition, and what its keys are without guidance; empty where there is nothing to guide towards."""
    if null is not None:
        encode = networks["text"]
        empty = encode(jnp.asarray(null["text_ids"]), jnp.asarray(null["text_mask"]))
        return encode(given["text_ids"], given["text_mask"]), empty
    return dict(given), networks["null"]() if "null" in networks else {}
