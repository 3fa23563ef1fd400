"""Solver steps that look at one level at a time: DDIM / ancestral, Euler, Heun.

A solver is a small frozen dataclass with two methods, made to live in the body of one `lax.scan`:

    state = solver.init(x)
    x_s, x0_hat, state = solver.step(denoise, process, x, t, s, state, rng)

`denoise(x, t) -> x0_hat` is the denoiser with its condition filled in; t and s are `[B, T]`, s <= t, and each frame
moves by itself: a frame with s = t comes back bit for bit, a frame with s = 0 is x0_hat exactly.  All solvers work
from alpha, sigma and x0_hat, so they serve every process, and none divides by a level that can be 0.

  DDIM   arXiv 2010.02502; eta = 1 is ancestral sampling (DDPM)
  Euler  a straight step in the process's own coordinates (`Process.ode_coordinates`); the same step as DDIM with
         eta = 0, since both move on the line through x0_hat
  Heun   Euler, then once more with the mean of the slopes at both ends (arXiv 2206.00364, algorithm 1);
         two evaluations, except in a step where every frame ends clean, which leaves nothing to correct

The multistep solvers are in `multistep.py`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from vdm_jax.diffusion.leaves import map_frames, noise_like, select_frames
from vdm_jax.diffusion.process import Process
from vdm_jax.types import Array, Clip, Time

Denoise = Callable[[Clip, Time], Clip]


class Solver(Protocol):
    """What the sampler asks of a solver."""

    @property
    def stochastic(self) -> bool:
        """Whether `step` draws from `rng`."""

    def init(self, x: Clip) -> Any:
        """The state before the first step: a pytree whose shapes never change."""

    def step(
        self, denoise: Denoise, process: Process, x: Clip, t: Time, s: Time, state: Any, rng: Array | None
    ) -> tuple[Clip, Clip, Any]:
        """Returns (x at s, x0_hat at t, new state)."""


@dataclasses.dataclass(frozen=True)
class DDIM:
    """DDIM (arXiv 2010.02502).

    Attributes:
      eta: 0 is deterministic, 1 is ancestral sampling.
    """

    eta: float = 0.0

    def __post_init__(self):
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta: {self.eta!r} must lie between 0 and 1")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0.0

    def init(self, x: Clip) -> tuple:
        return ()

    def step(self, denoise, process, x, t, s, state, rng):
        x0_hat = denoise(x, t)
        noise = noise_like(rng, x) if self.stochastic else None
        return process.reverse_step(x, x0_hat, t, s, noise, self.eta), x0_hat, state


@dataclasses.dataclass(frozen=True)
class Euler:
    """First-order step of the probability-flow ODE in the process's own coordinates."""

    @property
    def stochastic(self) -> bool:
        return False

    def init(self, x: Clip) -> tuple:
        return ()

    def step(self, denoise, process, x, t, s, state, rng):
        x0_hat = denoise(x, t)
        return select_frames(t == s, x, euler_step(process, x, x0_hat, t, s)), x0_hat, state


@dataclasses.dataclass(frozen=True)
class Heun:
    """Second-order step of the same ODE; frames that end clean take the Euler step, as published."""

    @property
    def stochastic(self) -> bool:
        return False

    def init(self, x: Clip) -> tuple:
        return ()

    def step(self, denoise, process, x, t, s, state, rng):
        x0_hat = denoise(x, t)
        guess = select_frames(t == s, x, euler_step(process, x, x0_hat, t, s))
        correctable = (s > 0.0) & (t != s)

        def corrected():
            x0_next = denoise(guess, s)
            return select_frames(correctable, heun_step(process, x, guess, x0_hat, x0_next, t, s), guess)

        return jax.lax.cond(jnp.any(correctable), corrected, lambda: guess), x0_hat, state


def euler_step(process: Process, x: Clip, x0_hat: Clip, t: Time, s: Time) -> Clip:
    """`y_s = x0 + (c_s / c_t) (y_t - x0)` with y = x / scale and clock c: exact x0_hat where c_s = 0."""
    scale_t, clock_t, scale_s, clock_s = _coordinates(process, t, s)
    ratio = clock_s / jnp.where(clock_t > 0.0, clock_t, 1.0)

    def move(x, x0, scale_t, ratio, scale_s):
        return scale_s * (x0 + ratio * (x / scale_t - x0))

    return map_frames(move, (x, x0_hat), (scale_t, ratio, scale_s))


def heun_step(process: Process, x: Clip, guess: Clip, x0_hat: Clip, x0_next: Clip, t: Time, s: Time) -> Clip:
    """Moves y = x / scale by the mean of the slopes `(y - x0_hat) / clock` at t and at s; needs s > 0."""
    scale_t, clock_t, scale_s, clock_s = _coordinates(process, t, s)
    span = clock_s - clock_t
    first = 0.5 * span / jnp.where(clock_t > 0.0, clock_t, 1.0)
    second = 0.5 * span / jnp.where(clock_s > 0.0, clock_s, 1.0)

    def move(x, guess, x0, x0_next, scale_t, scale_s, first, second):
        y = x / scale_t
        return scale_s * (y + first * (y - x0) + second * (guess / scale_s - x0_next))

    return map_frames(move, (x, guess, x0_hat, x0_next), (scale_t, scale_s, first, second))


def _coordinates(process: Process, t: Time, s: Time) -> tuple[Array, Array, Array, Array]:
    return *process.ode_coordinates(*process.alpha_sigma(t)), *process.ode_coordinates(*process.alpha_sigma(s))
