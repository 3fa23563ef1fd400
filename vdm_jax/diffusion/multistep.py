"""Solver steps that remember: DPM-Solver++(2M) (arXiv 2211.01095) and UniPC-2 (arXiv 2302.04867).

Both solve the probability-flow ODE exactly in its linear part and extrapolate x0_hat in lambda = log(alpha/sigma).
With levels p (previous), t, s, with h = lambda_s - lambda_t and h_p = lambda_t - lambda_p,

    2M:     x_s = k x_t + w (x0_t + h / (2 h_p) (x0_t - x0_p))         k = sigma_s / sigma_t,  w = alpha_s - k alpha_t

UniPC's predictor of order 2 with B(h) = e^h - 1 ("bh2") is this same step.  It adds a corrector, which costs no
evaluation: once x0_t is known at the level t that was predicted from p, the step p -> t is redone with it,

    x_t += w_pt (a (x0_q - x0_p) / r + b (x0_t - x0_p) - 1/2 (x0_q - x0_p) / r)     r = (lambda_q - lambda_p) / h_p

with q the level before p and (a, b) the solution of a + b = b1, r a + b = b2, b_i the bh2 moments.  Since the
corrected and the predicted x_t share their linear part, only the difference is added here: what a hook has done to
x_t between the two steps survives.

Histories are per frame.  A frame that has not moved yet, that has just been noised again, or that ends clean
(lambda_s infinite) takes the first-order step; a frame that is held keeps its history as it was.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vdm_jax.diffusion.leaves import leading_shape, map_frames, select_frames
from vdm_jax.diffusion.process import Process
from vdm_jax.types import Array, Clip, Time

_SMALLEST = 1e-12  # log of it stands for an infinite log-SNR


class History(NamedTuple):
    """What was believed at the levels a frame came from, newest first.

    Attributes:
      x0: clips.
      time: levels `[B, T]` they were evaluated at.
      count: int32 `[B, T]`, how many of them are real.
    """

    x0: tuple[Clip, ...]
    time: tuple[Time, ...]
    count: Array


@dataclasses.dataclass(frozen=True)
class DPMSolverPP2M:
    """DPM-Solver++(2M): second order, one evaluation per step (arXiv 2211.01095, algorithm 2)."""

    @property
    def stochastic(self) -> bool:
        return False

    def init(self, x: Clip) -> History:
        return _empty_history(x, depth=1)

    def step(self, denoise, process, x, t, s, state, rng):
        x0_hat = denoise(x, t)
        x_s = _second_order_step(process, x, x0_hat, t, s, state)
        return select_frames(t == s, x, x_s), x0_hat, _remember(state, x0_hat, t, s)


@dataclasses.dataclass(frozen=True)
class UniPC:
    """UniPC of order 2 with B(h) = e^h - 1: 2M with a free corrector (arXiv 2302.04867)."""

    @property
    def stochastic(self) -> bool:
        return False

    def init(self, x: Clip) -> History:
        return _empty_history(x, depth=2)

    def step(self, denoise, process, x, t, s, state, rng):
        x0_hat = denoise(x, t)
        better = _correct(process, x, x0_hat, t, state)
        x_s = _second_order_step(process, better, x0_hat, t, s, state)
        return select_frames(t == s, x, x_s), x0_hat, _remember(state, x0_hat, t, s)


def half_log_snr(process: Process, t: Time) -> Array:
    """lambda = log(alpha / sigma), with +-27.6 in place of infinity."""
    alpha, sigma = process.alpha_sigma(t)
    return jnp.log(jnp.maximum(alpha, _SMALLEST)) - jnp.log(jnp.maximum(sigma, _SMALLEST))


def _empty_history(x: Clip, depth: int) -> History:
    batch, frames = leading_shape(x)
    zeros = jax.tree.map(jnp.zeros_like, x)
    time = jnp.zeros((batch, frames), jnp.float32)
    return History((zeros,) * depth, (time,) * depth, jnp.zeros((batch, frames), jnp.int32))


def _remember(state: History, x0_hat: Clip, t: Time, s: Time) -> History:
    """Pushes the newest belief for the frames that moved."""
    moved = t != s
    x0 = tuple(select_frames(moved, new, old) for new, old in zip((x0_hat, *state.x0[:-1]), state.x0))
    time = tuple(jnp.where(moved, new, old) for new, old in zip((t, *state.time[:-1]), state.time))
    count = jnp.where(moved, jnp.minimum(state.count + 1, len(state.x0)), state.count)
    return History(x0, time, count)


def _real(state: History, t: Time) -> Array:
    """How many remembered levels are of use at t, `[B, T]`: none if the frame was noised up again since."""
    return jnp.where(state.time[0] > t, state.count, 0)


def _second_order_step(process: Process, x: Clip, x0_hat: Clip, t: Time, s: Time, state: History) -> Clip:
    lambda_t, lambda_s = half_log_snr(process, t), half_log_snr(process, s)
    keep, take = process.step_coefficients(t, s)
    useful = (_real(state, t) >= 1) & (s > 0.0)
    before = jnp.where(useful, lambda_t - half_log_snr(process, state.time[0]), 1.0)
    slope = jnp.where(useful, 0.5 * (lambda_s - lambda_t) / before, 0.0)

    def move(x, x0, x0_before, keep, take, slope):
        return keep * x + take * (x0 + slope * (x0 - x0_before))

    return map_frames(move, (x, x0_hat, state.x0[0]), (keep, take, slope))


def _correct(process: Process, x: Clip, x0_hat: Clip, t: Time, state: History) -> Clip:
    """Adds what the step that led to t would have done differently, had it known x0_hat."""
    real = _real(state, t)
    before, older = (half_log_snr(process, time) for time in state.time)
    step = jnp.where(real >= 1, half_log_snr(process, t) - before, 1.0)
    ratio = jnp.where(real >= 2, (older - before) / step, -1.0)  # negative: `older` is noisier than `before`
    outer, inner = _corrector_weights(step, ratio)
    outer = jnp.where(real >= 2, outer - 0.5, 0.0) / ratio
    inner = jnp.where(real >= 2, inner, 0.5)
    _, take = process.step_coefficients(state.time[0], t)
    take = jnp.where(real >= 1, take, 0.0)

    def add(x, x0, x0_before, x0_older, take, outer, inner):
        return x + take * (outer * (x0_older - x0_before) + inner * (x0 - x0_before))

    return map_frames(add, (x, x0_hat, *state.x0), (take, outer, inner))


def _corrector_weights(step: Array, ratio: Array) -> tuple[Array, Array]:
    """Solves a + b = b1, ratio a + b = b2 for the moments of bh2; `step` > 0, `ratio` < 0."""
    decay = jnp.expm1(-step)
    # Both are differences of nearly equal numbers when the step is small; there, their series.
    small = step < 0.2
    safe = jnp.where(small, 1.0, step)
    h = jnp.where(small, step, 0.0)
    first = jnp.where(small, -h / 2 + h**2 / 6 - h**3 / 24 + h**4 / 120, -jnp.expm1(-safe) / safe - 1.0)
    second = jnp.where(small, -h / 6 + h**2 / 24 - h**3 / 120 + h**4 / 720, -first / safe - 0.5)
    moment_1, moment_2 = first / decay, 2.0 * second / decay
    outer = (moment_1 - moment_2) / (1.0 - ratio)
    return outer, moment_1 - outer
