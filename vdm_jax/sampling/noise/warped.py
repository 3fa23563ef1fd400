"""Noise sources that follow the motion of the clip (Go-with-the-Flow, 2501.08331).

    objective = {"kind": "denoising", "noise": {"kind": "warped", "scale": 8}}      of the batch's `flow`
    objective = {"kind": "denoising", "noise": {"kind": "precomputed"}}             made beforehand: the batch's `noise`

A network that is trained with them makes what moves as the noise does.  In training each clip's noise is degraded
(`warping.degrade`) by g ~ U(0, 1) of its own, so that one network follows strictly, loosely and not at all; in sampling
g is chosen.  Solvers that add noise wash the motion out.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vdm_jax.diffusion.leaves import noise_like
from vdm_jax.errors import did_you_mean
from vdm_jax.sampling.noise.warping import NEW_DENSITIES, SPACES, TIMES, degrade, reduce_time, warp_noise
from vdm_jax.types import Array, Clip


@dataclasses.dataclass(frozen=True)
class Warped:
    """Noise warped by the flow that comes with the clip.

    Attributes:
      scale: warp resolution is so many times that of the clip along each side; the finer, the less is rounded.
      stride: frames of the flow for one frame of the clip, where that is latents (`warping.reduce_time`).
      space: how frames are reduced to the clip's resolution, `weighted` or `plain`.
      time: how they are to its frames, `nearest`, `blend` or `blend_norm`.
      new_density: of pixels that come into view, `one` or `shared`.
      degradation: g in [0, 1]; None draws it from U(0, 1) for each clip, which is for training.
      key: of the batch that holds the flow, `[B, stride (T - 1), h, w, 2]` in pixels of its own grid.

    Raises:
      ValueError: names the field and what is allowed.
    """

    scale: int = 8
    stride: int = 1
    space: str = "weighted"
    time: str = "nearest"
    new_density: str = "one"
    degradation: float | None = None
    key: str = "flow"

    def __post_init__(self):
        for name in ("scale", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be 1 or more")
        for name, allowed in (("space", SPACES), ("time", TIMES), ("new_density", NEW_DENSITIES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: {did_you_mean(getattr(self, name), allowed)}")
        check_degradation(self.degradation)

    @property
    def variance(self) -> float:
        """1; of blended frames not a number, it is the smaller the more they move."""
        return float("nan") if self.time == "blend" and self.stride > 1 else 1.0

    @property
    def reads(self) -> frozenset[str]:
        """The flow."""
        return frozenset({self.key})

    def flow_frames(self, frames: int) -> int:
        """Fields of flow for a clip of so many frames."""
        return self.stride * (frames - 1)

    def shapes(self, clip_shape: tuple[int, int, int, int]) -> dict[str, tuple[int, ...]]:
        """The flow of a clip (T, H, W, C), on a grid as large as the clip's."""
        return {self.key: (self.flow_frames(clip_shape[0]), *clip_shape[1:3], 2)}

    def __call__(self, rng: Array, like: Clip, given: Mapping[str, Any]) -> Array:
        """See `NoiseSource`.

        Raises:
          ValueError: a clip that is not one array `[T, H, W, C]`, or flow of another shape.
        """
        shape, flow = _picture_shape(like), given[self.key]
        if len(flow) != self.flow_frames(shape[0]):
            raise ValueError(
                f"noise: {len(flow)} fields of {self.key} for {shape[0]} frames; with stride {self.stride} there must"
                f" be {self.flow_frames(shape[0])}, [stride (T - 1), h, w, 2]"
            )
        warp_key, degrade_key = jax.random.split(rng)
        noise = warp_noise(warp_key, flow, shape[1:3], shape[3], self.scale, self.space, self.new_density)
        return _degraded(degrade_key, reduce_time(noise, self.stride, self.time), self.degradation)


@dataclasses.dataclass(frozen=True)
class Precomputed:
    """Noise that came with the clip, made beforehand.

    Attributes:
      degradation: g in [0, 1]; None draws it from U(0, 1) for each clip, which is for training.
      key: of the batch that holds it, `[B, T, ...]`, of unit variance.
    """

    degradation: float | None = None
    key: str = "noise"

    variance = 1.0

    def __post_init__(self):
        check_degradation(self.degradation)

    @property
    def reads(self) -> frozenset[str]:
        """The noise."""
        return frozenset({self.key})

    def shapes(self, clip_shape: tuple[int, int, int, int]) -> dict[str, tuple[int, ...]]:
        """The noise of a clip (T, H, W, C)."""
        return {self.key: tuple(clip_shape)}

    def __call__(self, rng: Array, like: Clip, given: Mapping[str, Any]) -> Clip:
        """See `NoiseSource`.

        Raises:
          ValueError: noise of another shape than the clip.
        """
        noise = given[self.key]
        if jax.tree.map(jnp.shape, noise) != jax.tree.map(jnp.shape, like):
            raise ValueError(f"noise: {self.key} is {jax.tree.map(jnp.shape, noise)}, the clip {jnp.shape(like)}")
        return _degraded(rng, noise, self.degradation)


def check_degradation(value: float | None) -> None:
    """Refuses what is neither None nor within [0, 1]."""
    if value is not None and not 0.0 <= value <= 1.0:
        raise ValueError(f"degradation: {value!r} must lie between 0 (follow the flow) and 1 (independent noise)")


def _degraded(rng: Array, noise: Clip, degradation: float | None) -> Clip:
    share_key, new_key = jax.random.split(rng)
    share = jax.random.uniform(share_key) if degradation is None else degradation
    return jax.tree.map(lambda z, new: degrade(z.astype(jnp.float32), new, share), noise, noise_like(new_key, noise))


def _picture_shape(like: Clip) -> tuple[int, int, int, int]:
    shape = jnp.shape(like) if not isinstance(like, Mapping) else ()
    if len(shape) != 4:
        raise ValueError(f"noise: Warped is for clips [T, H, W, C], not {shape or sorted(like)}")
    return shape
