"""Solver steps that remember: DPM-Solver++(2M), ODE and SDE (arXiv 2211.01095), and UniPC-2 (arXiv 2302.04867).

Both solve the probability-flow ODE exactly in its linear part and extrapolate x0_hat in lambda = log(alpha/sigma).
With levels p (previous), t, s, with h = lambda_s - lambda_t and h_p = lambda_t - lambda_p,

    2M:     x_s = k x_t + w (x0_t + h / (2 h_p) (x0_t - x0_p))         k = sigma_s / sigma_t,  w = alpha_s - k alpha_t

The SDE takes k and the noise from the ancestral step.  `heun`, the other published weight of the difference, has
1 / (1 - e^-h) - 1 / h in place of 1/2, and with 2h for h in the SDE.

UniPC's predictor of order 2 with B(h) = e^h - 1 ("bh2") is this same step.  It adds a corrector, which costs no
evaluation: once x0_t is known at the level t that was predicted from p, the step p -> t is redone with it,

    x_t += w_pt (a (x0_q - x0_p) / r + b (x0_t - x0_p) - 1/2 (x0_q - x0_p) / r)     r = (lambda_q - lambda_p) / h_p

with q the level before p and (a, b) the solution of a + b = b1, r a + b = b2, b_i the bh2 moments.  Since the
corrected and the predicted x_t share their linear part, only the difference is added here: what a hook has done to
x_t between the two steps survives.  B(h) = h ("bh1") weighs both by h / (1 - e^-h) where they are of first order.

Histories are per frame.  A frame that has not moved yet, that has just been noised again, that comes from pure noise
(lambda_p infinite) or that ends clean (lambda_s infinite) takes the first-order step; a frame that is held keeps its
history as it was.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vdm_jax.diffusion.leaves import leading_shape, map_frames, select_frames
from vdm_jax.diffusion.process import Process
from vdm_jax.errors import did_you_mean
from vdm_jax.types import Array, Clip, Time

DIFFERENCES = ("midpoint", "heun")
FUNCTIONS = ("bh1", "bh2")
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
    """DPM-Solver++(2M): second order, one evaluation per step (arXiv 2211.01095, algorithm 2).

    Attributes:
      sde: solve the reverse SDE in place of the ODE.
      difference: how the second-order term is weighed, `midpoint` or `heun`.
      first_order_to: steps that arrive at this level or below are of first order.
    """

    sde: bool = False
    difference: str = "midpoint"
    first_order_to: float = 0.0

    def __post_init__(self):
        if self.difference not in DIFFERENCES:
            raise ValueError(f"difference: {did_you_mean(self.difference, DIFFERENCES)}")

    @property
    def stochastic(self) -> bool:
        return self.sde

    def init(self, x: Clip) -> History:
        return empty_history(x, depth=1)

    def step(self, denoise, process, x, t, s, state, noise):
        x0_hat = denoise(x, t)
        weigh = _midpoint if self.difference == "midpoint" else _heun
        x_s = _second_order_step(process, x, x0_hat, t, s, state, self.first_order_to, weigh, self.sde)
        if self.sde:
            x_s = map_frames(lambda x, z, d: x + d * z, (x_s, noise), (process.posterior_std(t, s),))
        return select_frames(t == s, x, x_s), x0_hat, remember(state, x0_hat, t, s)


@dataclasses.dataclass(frozen=True)
class UniPC:
    """UniPC of order 2: 2M with a free corrector (arXiv 2302.04867).

    Attributes:
      function: B(h), `bh1` for h and `bh2` for e^h - 1.
      first_order_to: steps that arrive at this level or below are of first order.
    """

    function: str = "bh2"
    first_order_to: float = 0.0

    def __post_init__(self):
        if self.function not in FUNCTIONS:
            raise ValueError(f"function: {did_you_mean(self.function, FUNCTIONS)}")

    @property
    def stochastic(self) -> bool:
        return False

    def init(self, x: Clip) -> History:
        return empty_history(x, depth=2)

    def step(self, denoise, process, x, t, s, state, noise):
        x0_hat = denoise(x, t)
        weigh = _midpoint if self.function == "bh2" else _linear
        better = _correct(process, x, x0_hat, t, state, weigh)
        x_s = _second_order_step(process, better, x0_hat, t, s, state, self.first_order_to, weigh)
        return select_frames(t == s, x, x_s), x0_hat, remember(state, x0_hat, t, s)


def half_log_snr(process: Process, t: Time) -> Array:
    """lambda = log(alpha / sigma), with +-27.6 in place of infinity."""
    alpha, sigma = process.alpha_sigma(t)
    return jnp.log(jnp.maximum(alpha, _SMALLEST)) - jnp.log(jnp.maximum(sigma, _SMALLEST))


def empty_history(x: Clip, depth: int) -> History:
    """A history of nothing, that will hold `depth` clips like x."""
    batch, frames = leading_shape(x)
    zeros = jax.tree.map(jnp.zeros_like, x)
    time = jnp.zeros((batch, frames), jnp.float32)
    return History((zeros,) * depth, (time,) * depth, jnp.zeros((batch, frames), jnp.int32))


def remember(state: History, x0_hat: Clip, t: Time, s: Time) -> History:
    """Pushes the newest belief for the frames that moved."""
    moved = t != s
    x0 = tuple(select_frames(moved, new, old) for new, old in zip((x0_hat, *state.x0[:-1]), state.x0))
    time = tuple(jnp.where(moved, new, old) for new, old in zip((t, *state.time[:-1]), state.time))
    count = jnp.where(moved, jnp.minimum(state.count + 1, len(state.x0)), state.count)
    return History(x0, time, count)


def real(state: History, t: Time) -> Array:
    """How many remembered levels are of use at t, `[B, T]`: none if the frame was noised up again since."""
    return jnp.where(state.time[0] > t, state.count, 0)


def _midpoint(h: Array) -> Array:
    return jnp.full_like(h, 0.5)


def _linear(h: Array) -> Array:
    """`1/2 h / (1 - e^-h)`."""
    return 0.5 * h / -jnp.expm1(-_positive(h))


def _heun(h: Array) -> Array:
    """`1 / (1 - e^-h) - 1 / h`; its series where both are large."""
    large = _positive(jnp.where(h < 0.2, 0.2, h))
    return jnp.where(h < 0.2, 0.5 + h / 12 - h**3 / 720, -1.0 / jnp.expm1(-large) - 1.0 / large)


def _positive(h: Array) -> Array:
    return jnp.where(h > 0.0, h, 1.0)


def _second_order_step(
    process: Process,
    x: Clip,
    x0_hat: Clip,
    t: Time,
    s: Time,
    state: History,
    first_order_to: float,
    weigh: Callable[[Array], Array],
    sde: bool = False,
) -> Clip:
    lambda_t, lambda_s = half_log_snr(process, t), half_log_snr(process, s)
    keep, take = process.step_coefficients(t, s, eta=1.0 if sde else 0.0)
    some_signal = process.alpha_sigma(state.time[0])[0] > 0.0
    useful = (real(state, t) >= 1) & (s > first_order_to) & some_signal
    step = lambda_s - lambda_t
    before = jnp.where(useful, lambda_t - half_log_snr(process, state.time[0]), 1.0)
    slope = jnp.where(useful, weigh(2.0 * step if sde else step) * step / before, 0.0)

    def move(x, x0, x0_before, keep, take, slope):
        return keep * x + take * (x0 + slope * (x0 - x0_before))

    return map_frames(move, (x, x0_hat, state.x0[0]), (keep, take, slope))


def _correct(process: Process, x: Clip, x0_hat: Clip, t: Time, state: History, weigh: Callable[[Array], Array]) -> Clip:
    """Adds what the step that led to t would have done differently, had it known x0_hat."""
    some_signal = process.alpha_sigma(state.time[1])[0] > 0.0  # the step to redo was of first order otherwise
    have = jnp.where(some_signal, real(state, t), jnp.minimum(real(state, t), 1))
    before, older = (half_log_snr(process, time) for time in state.time)
    step = jnp.where(have >= 1, half_log_snr(process, t) - before, 1.0)
    ratio = jnp.where(have >= 2, (older - before) / step, -1.0)  # negative: `older` is noisier than `before`
    outer, inner = _corrector_weights(step, ratio)
    first_order = weigh(step)
    outer = jnp.where(have >= 2, outer - first_order, 0.0) / ratio
    inner = jnp.where(have >= 2, inner, first_order)
    _, take = process.step_coefficients(state.time[0], t)
    take = jnp.where(have >= 1, take, 0.0)

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
