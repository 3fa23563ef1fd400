"""Solver steps of distilled models, which jump to x0 and are noised again: LCM (arXiv 2310.04378), TCD (2402.19159).

  LCM   f = c_skip x_t + c_out x0_hat,  x_s = alpha_s f + sigma_s z
        c_skip = d^2 / (n^2 + d^2)    c_out = n / sqrt(n^2 + d^2)    n = a times what the network is told, d = 1/2
  TCD   a DDIM step to a level u at or below s, from which noise leads up to s:  x_s = q(x_s | x_u)
        u = s for gamma = 0 (DDIM);  u = 0 for gamma = 1 (LCM without the boundary condition)

TCD counts its levels in entries of the table: the entry of u is (1 - gamma) times that of s, rounded down.

Where the process bounds its own network, as EDM does (c_skip = 1, c_out = 0 at sigma = 0), f is x0_hat itself.
A model is distilled at the levels of a `ConsistencyGrid`, and sampled at some of them.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion import spacing
from vdm_jax.diffusion.leaves import frame_times, map_frames, select_frames
from vdm_jax.diffusion.process import Process
from vdm_jax.types import Array, Clip, Time

_SIGMA_DATA = 0.5


def consistent(process: Process, x_t: Clip, x0_hat: Clip, t: Time, scaling: float | None) -> Clip:
    """f(x_t, t): the belief, held to x_t where the network is told 0 (the equation at the top).

    Args:
      process: what is told.
      x_t, x0_hat: the clip and what it is believed to come from.
      t: `[B, T]` or broadcastable.
      scaling: a; None is x0_hat itself.
    """
    if scaling is None:
        return x0_hat
    told = scaling * process.network_time(frame_times(t, x_t))
    skip = _SIGMA_DATA**2 / (told**2 + _SIGMA_DATA**2)
    out = told / jnp.sqrt(told**2 + _SIGMA_DATA**2)
    return map_frames(lambda x, x0, a, b: a * x + b * x0, (x_t, x0_hat), (skip, out))


@dataclasses.dataclass(frozen=True)
class ConsistencyGrid:
    """The levels that a consistency model is distilled at (the skipping steps of arXiv 2310.04378).

    For the VP process of 1,000 entries these are the entries `i 1000 / N - 1`, and entry 0 below the first; for EDM the
    N levels of Karras, and 0.

    Attributes:
      steps: N, of the solver of the teacher.
      scaling: as of `LCM`.
    """

    steps: int = 50
    scaling: float | None = 10.0

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps: {self.steps!r} must be 1 or more")
        LCM(self.scaling)

    def levels(self, process: Process) -> np.ndarray:
        """`[N + 1]` float32 on the host, decreasing; the model is held to its input at the last one.

        Raises:
          ValueError: a level that comes twice, or a process that has no use for `scaling`, or the other way round.
        """
        levels = process.levels(self.steps)
        if self.scaling is not None:
            with jax.ensure_compile_time_eval():  # levels are asked for in traced code too
                levels[-1] = np.float32(process.time_from_unit(0.0))
                told = float(process.network_time(jnp.float32(levels[-1])))
            if told != 0.0:
                raise ValueError(
                    f"scaling: {self.scaling!r} needs a process that tells its network 0 at its lowest level;"
                    f" {type(process).__name__} does not: use None"
                )
        if not (np.diff(levels) < 0.0).all():
            raise ValueError(f"steps: {self.steps} puts the lowest level, {levels[-1]:.6g}, in the grid twice; fewer")
        return levels

    def sampled(self, process: Process, steps: int) -> np.ndarray:
        """`[S + 1]` levels of sampling, down to 0: S of the N, evenly spread by number from the top.

        Raises:
          ValueError: more steps than N.
        """
        if steps < 1:
            raise ValueError(f"steps: {steps!r} must be at least 1")
        if steps > self.steps:
            raise ValueError(f"steps: {steps} is more than the {self.steps} that the model was distilled at")
        return np.append(self.levels(process)[spacing.spread(self.steps, steps)], np.float32(0.0))

    def check(self, process: Process, levels: np.ndarray) -> None:
        """Refuses levels of sampling, the last 0 aside, that the model was not distilled at; says both grids."""
        grid = self.levels(process)[:-1]
        if not np.isin(np.asarray(levels, np.float32)[:-1], grid).all():
            mine, theirs = ([round(float(level), 5) for level in row] for row in (levels, grid))
            raise ValueError(f"levels: {mine} are not all among those that the model was distilled at: {theirs}")


@dataclasses.dataclass(frozen=True)
class LCM:
    """Multistep consistency sampling.

    Attributes:
      scaling: a, how quickly the boundary condition f(x, 0) = x lets go; None is no boundary condition, f = x0_hat
        (flow-matching models distilled to few steps).
    """

    scaling: float | None = 10.0

    def __post_init__(self):
        if self.scaling is not None and not self.scaling > 0.0:
            raise ValueError(f"scaling: {self.scaling!r} must be above 0, or None")

    @property
    def stochastic(self) -> bool:
        return True

    def init(self, x: Clip) -> tuple:
        return ()

    def step(self, denoise, process, x, t, s, state, noise):
        x0_hat = consistent(process, x, denoise(x, t), t, self.scaling)
        return select_frames(t == s, x, process.q_sample(x0_hat, noise, s)), x0_hat, state


@dataclasses.dataclass(frozen=True)
class TCD:
    """Trajectory consistency sampling.

    Attributes:
      gamma: 0 is deterministic, 1 noises from the clean clip each time.
      entries: N of the table that the model was trained on.
    """

    gamma: float = 0.3
    entries: int = 1000

    def __post_init__(self):
        if not 0.0 <= self.gamma <= 1.0:
            raise ValueError(f"gamma: {self.gamma!r} must lie between 0 and 1")
        if self.entries < 2:
            raise ValueError(f"entries: {self.entries!r} must be at least 2")

    @property
    def stochastic(self) -> bool:
        return self.gamma > 0.0

    def init(self, x: Clip) -> tuple:
        return ()

    def step(self, denoise, process, x, t, s, state, noise):
        x0_hat = denoise(x, t)
        under = self._under(process, s)
        x_s = process.reverse_step(x, x0_hat, t, under)
        if self.stochastic:
            x_s = process.forward_step(x_s, under, s, noise)
        return select_frames(t == s, x, x_s), x0_hat, state

    def _under(self, process: Process, s: Time) -> Array:
        """The level u."""
        entry = jnp.maximum(jnp.round(s / process.t_max * self.entries) - 1.0, 0.0)
        under = (jnp.floor((1.0 - self.gamma) * entry) + 1.0) / self.entries * process.t_max
        return jnp.minimum(under, s)
