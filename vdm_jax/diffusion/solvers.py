"""Solver steps that look at one level at a time: DDIM / ancestral, Euler, Heun.

A solver is a small frozen dataclass with two methods, made to live in the body of one `lax.scan`:

    state = solver.init(x)
    x_s, x0_hat, state = solver.step(denoise, process, x, t, s, state, noise)

`denoise(x, t) -> x0_hat` is the denoiser with its condition filled in; `noise` is a standard normal draw like x for
solvers that are `stochastic`, None for the others; t and s are `[B, T]`, s <= t, and each frame
moves by itself: a frame with s = t comes back bit for bit, a frame with s = 0 is x0_hat exactly.  All solvers work
from alpha, sigma and x0_hat, so they serve every process, and none divides by a level that can be 0.

  DDIM   arXiv 2010.02502; eta = 1 is ancestral sampling (DDPM)
  Euler  a straight step in the process's own coordinates (`Process.ode_coordinates`); the same step as DDIM with
         eta = 0, since both move on the line through x0_hat; with eta = 1, DDIM is ancestral Euler too
  Heun   Euler, then once more with the mean of the slopes at both ends (arXiv 2206.00364, algorithm 1);
         two evaluations, except in a step where every frame ends clean, which leaves nothing to correct

The multistep solvers are in `multistep.py`, those of consistency models in `consistency.py`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from vdm_jax.diffusion.bounds import Bound
from vdm_jax.diffusion.leaves import map_frames, select_frames
from vdm_jax.diffusion.process import Process
from vdm_jax.errors import did_you_mean
from vdm_jax.types import Array, Clip, Time

Denoise = Callable[[Clip, Time], Clip]
VARIANCES = ("posterior", "forward")
CLOCKS = ("process", "ratio")


class Solver(Protocol):
    """What the sampler asks of a solver."""

    @property
    def stochastic(self) -> bool:
        """Whether `step` adds noise."""

    def init(self, x: Clip) -> Any:
        """The state before the first step: a pytree whose shapes never change."""

    def step(
        self, denoise: Denoise, process: Process, x: Clip, t: Time, s: Time, state: Any, noise: Clip | None
    ) -> tuple[Clip, Clip, Any]:
        """Returns (x at s, x0_hat at t, new state)."""


@dataclasses.dataclass(frozen=True)
class DDIM:
    """DDIM (arXiv 2010.02502).

    Attributes:
      eta: 0 is deterministic, 1 is ancestral sampling.
      variance: of the noise that is added, `posterior`, or `forward`, that of q(x_t | x_s), with the mean of eta = 1
        (the two choices of arXiv 2006.11239, section 3.2).
      bound: keeps x0_hat within bounds while eps_hat stays what the network said (an edit of x0_hat alone, such as
        the sampler's, lets eps_hat follow).
    """

    eta: float = 0.0
    variance: str = "posterior"
    bound: Bound | None = None

    def __post_init__(self):
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta: {self.eta!r} must lie between 0 and 1")
        if self.variance not in VARIANCES:
            raise ValueError(f"variance: {did_you_mean(self.variance, VARIANCES)}")
        if self.variance == "forward" and self.eta != 1.0:
            raise ValueError(f"eta: {self.eta!r} with variance 'forward' must be 1")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0.0

    def init(self, x: Clip) -> tuple:
        return ()

    def step(self, denoise, process, x, t, s, state, noise):
        x0_hat = denoise(x, t)
        moved_from = x
        if self.bound is not None:  # x moves along with x0_hat, so that (x - alpha x0_hat) / sigma stays
            bounded = self.bound(x0_hat)
            shift = jax.tree.map(jnp.subtract, bounded, x0_hat)
            alpha, _ = process.alpha_sigma(t)
            moved_from, x0_hat = map_frames(lambda x, d, a: x + a * d, (x, shift), (alpha,)), bounded
        if self.variance == "forward":
            x_s = _forward_variance_step(process, moved_from, x0_hat, t, s, noise)
        else:
            x_s = process.reverse_step(moved_from, x0_hat, t, s, noise, self.eta)
        return select_frames(t == s, x, x_s), x0_hat, state


@dataclasses.dataclass(frozen=True)
class Euler:
    """First-order step of the probability-flow ODE in the process's own coordinates."""

    @property
    def stochastic(self) -> bool:
        return False

    def init(self, x: Clip) -> tuple:
        return ()

    def step(self, denoise, process, x, t, s, state, noise):
        x0_hat = denoise(x, t)
        return select_frames(t == s, x, euler_step(process, x, x0_hat, t, s)), x0_hat, state


@dataclasses.dataclass(frozen=True)
class Heun:
    """Second-order step of the same ODE; frames that end clean take the Euler step, as published.

    Attributes:
      clock: in which the slope is taken to be smooth: `process`, its own coordinates, or `ratio`, sigma / alpha, in
        which EDM is published; needs alpha > 0.
    """

    clock: str = "process"

    def __post_init__(self):
        if self.clock not in CLOCKS:
            raise ValueError(f"clock: {did_you_mean(self.clock, CLOCKS)}")

    @property
    def stochastic(self) -> bool:
        return False

    def init(self, x: Clip) -> tuple:
        return ()

    def step(self, denoise, process, x, t, s, state, noise):
        x0_hat = denoise(x, t)
        guess = select_frames(t == s, x, euler_step(process, x, x0_hat, t, s))
        correctable = (s > 0.0) & (t != s)

        def corrected():
            x0_next = denoise(guess, s)
            return select_frames(correctable, heun_step(process, x, guess, x0_hat, x0_next, t, s, self.clock), guess)

        return jax.lax.cond(jnp.any(correctable), corrected, lambda: guess), x0_hat, state


def euler_step(process: Process, x: Clip, x0_hat: Clip, t: Time, s: Time) -> Clip:
    """`y_s = x0 + (c_s / c_t) (y_t - x0)` with y = x / scale and clock c: exact x0_hat where c_s = 0."""
    scale_t, clock_t, scale_s, clock_s = _coordinates(process, t, s)
    ratio = clock_s / jnp.where(clock_t > 0.0, clock_t, 1.0)

    def move(x, x0, scale_t, ratio, scale_s):
        return scale_s * (x0 + ratio * (x / scale_t - x0))

    return map_frames(move, (x, x0_hat), (scale_t, ratio, scale_s))


def heun_step(
    process: Process, x: Clip, guess: Clip, x0_hat: Clip, x0_next: Clip, t: Time, s: Time, clock: str = "process"
) -> Clip:
    """Moves y = x / scale by the mean of the slopes `(y - x0_hat) / clock` at t and at s; needs s > 0."""
    scale_t, clock_t, scale_s, clock_s = _coordinates(process, t, s, clock)
    span = clock_s - clock_t
    first = 0.5 * span / jnp.where(clock_t > 0.0, clock_t, 1.0)
    second = 0.5 * span / jnp.where(clock_s > 0.0, clock_s, 1.0)

    def move(x, guess, x0, x0_next, scale_t, scale_s, first, second):
        y = x / scale_t
        return scale_s * (y + first * (y - x0) + second * (guess / scale_s - x0_next))

    return map_frames(move, (x, guess, x0_hat, x0_next), (scale_t, scale_s, first, second))


def _forward_variance_step(process: Process, x: Clip, x0_hat: Clip, t: Time, s: Time, noise: Clip) -> Clip:
    keep, take = process.step_coefficients(t, s, eta=1.0)
    _, added = process.forward_coefficients(s, t)
    added = jnp.where(s > 0.0, added, 0.0)
    return map_frames(lambda x, x0, z, k, c, d: k * x + c * x0 + d * z, (x, x0_hat, noise), (keep, take, added))


def _coordinates(process: Process, t: Time, s: Time, clock: str = "process") -> tuple[Array, Array, Array, Array]:
    def at(level: Time) -> tuple[Array, Array]:
        alpha, sigma = process.alpha_sigma(level)
        return (alpha, sigma / alpha) if clock == "ratio" else process.ode_coordinates(alpha, sigma)

    return *at(t), *at(s)
