"""The sampler: one `lax.scan` over a level matrix `tau: [K + 1, T]` (see `tau.py`).

One step, for every frame i at once:

    x      given content is pasted                      (if known)
    x      = pre_step(x, info)
    x0_hat = edit_x0(D(x, t, cond), x, info)            (at every evaluation the solver makes)
    x      = solver step from t = tau[k] to s = tau[k + 1]
    x      = post_step(x, x0_hat, info)

What the frames start from, what the network believes, what is edited and how a step is taken are independent:
they come from `process.prior`, denoiser transforms, `Hooks` and `solver`.

The whole call is differentiable.  `grad_last = n` runs all but the last n steps without a gradient (as in
DRaFT-K, arXiv 2309.17400), and `remat` recomputes each step in the backward pass, so that memory holds one clip
per step instead of every activation of the network.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion.leaves import leading_shape, noise_like, select_frames
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.solvers import DDIM, Solver
from vdm_jax.sampling.denoiser import Denoiser
from vdm_jax.sampling.known import Known, check_known, paste
from vdm_jax.sampling.tau import check_lands, check_tau
from vdm_jax.types import Array, Clip, Condition, Time

_SOLVER, _HOOKS, _RENOISE, _GIVEN = range(4)  # one stream of randomness for each


class StepInfo(NamedTuple):
    """What a hook is told.

    Attributes:
      step: int32 scalar, 0 to K - 1.
      t, s: levels `[B, T]` before and after the step.
      rng: a key of this step's hooks, or None if the sampler has none.
    """

    step: Array
    t: Time
    s: Time
    rng: Array | None


@dataclasses.dataclass(frozen=True)
class Hooks:
    """Places where a method may reach into the loop; each is a pure function of clips, or None.

    Attributes:
      pre_step: `(x, info) -> x`, before the step.
      edit_x0: `(x0_hat, x_t, info) -> x0_hat`, on every evaluation (a second evaluation has its own x_t and
        info.t).
      post_step: `(x_s, x0_hat, info) -> x_s`, after the step.
    """

    pre_step: Callable[[Clip, StepInfo], Clip] | None = None
    edit_x0: Callable[[Clip, Clip, StepInfo], Clip] | None = None
    post_step: Callable[[Clip, Clip, StepInfo], Clip] | None = None


class Trajectory(NamedTuple):
    """Everything the loop went through: `x` `[K + 1, B, T, ...]` from x_T to x_0, `x0_hat` `[K, B, T, ...]`."""

    x: Clip
    x0_hat: Clip


def sample(
    denoiser: Denoiser,
    process: Process,
    x_T: Clip,
    tau: np.ndarray,
    cond: Condition,
    *,
    rng: Array | None = None,
    solver: Solver | None = None,
    hooks: Hooks = Hooks(),
    known: Known | None = None,
    lands: np.ndarray | None = None,
    noise: Clip | None = None,
    repaste: bool = True,
    rising: str = "refuse",
    record: bool = False,
    grad_last: int | None = None,
    remat: bool = False,
) -> Clip | tuple[Clip, Trajectory]:
    """Takes x_T along a level matrix.

    Args:
      denoiser: `D(x_t, t, cond) -> x0_hat`.
      process: the denoiser's.
      x_T: the clip at levels tau[0], e.g. `process.prior(rng, like)`; computed on as float32.
      tau: `[K + 1, T]`, or `[K + 1]` for all frames alike; levels of the process, on the host (numpy).
      cond: conditions, handed to the denoiser.
      rng: key; needed by stochastic solvers without `noise`, by `rising = "renoise"` and by masks inside frames.
      solver: one of `vdm_jax.diffusion.solvers` or `multistep`; default DDIM.
      hooks: see `Hooks`.
      known: given content.  With a frame mask, given frames stand at level 0 whatever tau says (so examples of a
        batch may differ) and come back bit for bit.  With a mask inside frames, the region is noised along with
        its frame, and comes back bit for bit if tau ends at 0.
      lands: `[K, T]` or `[K]`, levels at which the steps arrive where that is not tau[1:]: some published samplers
        step to one level and go on from another (see `interop.schedulers`).  tau[-1] must be where the last one lands.
      noise: `[K, B, T, ...]`, the solver's draws; default drawn from rng.
      repaste: False takes the network's word for given frames once they are in (they drift a little each step,
        as FVDM's released sampler does, wherever D(x, 0) is not x); frame masks only.
      rising: what happens to a frame whose level goes up: `refuse`; `renoise`, a draw of q(x_s | x_t); `invert`,
        the solver's own step backwards (DDIM inversion; start at a small level, not at 0).
      record: also return the trajectory.
      grad_last: gradients flow through the last n steps only; None for all, 0 for none.
      remat: recompute each step's activations in the backward pass.

    Returns:
      The clip at levels tau[-1], and a `Trajectory` if `record`.

    Raises:
      ValueError: see `check_tau`, `check_lands` and `check_known`; a missing rng; noise of another shape;
        `grad_last` outside 0..K; `repaste=False` without a frame mask.
    """
    x = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), x_T)
    _, frames = leading_shape(x)
    if isinstance(tau, jax.core.Tracer):
        raise ValueError("tau: is traced; levels are checked before any compile, so close over a numpy array")
    solver = solver or DDIM()
    tau = check_tau(tau, frames, process.t_max, rising=rising)
    known = None if known is None else check_known(known, x)
    lands = tau[1:] if lands is None else check_lands(lands, tau, process.t_max)
    noise = None if noise is None else _check_noise(noise, x, len(lands))
    _check_choices(len(lands), rng, solver, known, noise, repaste, rising, grad_last)

    loop = _Loop(denoiser, process, solver, hooks, known, repaste, rising, rng, cond)
    x = loop.enter(x)
    body = jax.checkpoint(loop.step, prevent_cse=False) if remat else loop.step
    rows = (jnp.arange(len(lands)), jnp.asarray(tau[:-1]), jnp.asarray(lands), noise)
    (x_0, _), visited = _scan(body, loop.detached, (x, solver.init(x)), rows, grad_last, record)
    x_0 = loop.leave(x_0, tau[-1])
    if not record:
        return x_0
    start = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), x, visited[0])
    return x_0, Trajectory(start, visited[1])


def _scan(body, detached, carry, rows, grad_last: int | None, record: bool):
    """Scans `body` over the rows; with `grad_last`, the earlier rows by a body that carries no gradient."""

    def step(function):
        def run(carry, row):
            carry, visited = function(carry, row)
            return carry, visited if record else None

        return run

    steps = rows[0].shape[0]
    free = 0 if grad_last is None else steps - grad_last
    if free == 0:
        return jax.lax.scan(step(body), carry, rows)
    early, late = (jax.tree.map(lambda row, part=part: row[part], rows) for part in (slice(free), slice(free, None)))
    carry, visited = jax.lax.stop_gradient(jax.lax.scan(step(detached), jax.lax.stop_gradient(carry), early))
    if free == steps:
        return carry, visited
    carry, visited_late = jax.lax.scan(step(body), carry, late)
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), visited, visited_late)


@dataclasses.dataclass(frozen=True)
class _Loop:
    """The body of the scan and what it closes over."""

    denoiser: Denoiser
    process: Process
    solver: Solver
    hooks: Hooks
    known: Known | None
    repaste: bool
    rising: str
    rng: Array | None
    cond: Condition

    def step(self, carry: tuple[Clip, Any], row: tuple[Array, Array, Array, Clip | None]):
        return self._step(carry, row, lambda belief: belief)

    def detached(self, carry: tuple[Clip, Any], row: tuple[Array, Array, Array, Clip | None]):
        """The same step with the network's parameters cut off, so that the backward pass keeps nothing of it."""
        return self._step(carry, row, jax.lax.stop_gradient)

    def enter(self, x: Clip) -> Clip:
        """Puts given frames into x_T."""
        return x if self.known is None or not self.known.whole_frames else paste(self.known, x)

    def leave(self, x: Clip, levels: np.ndarray) -> Clip:
        """Puts given content into frames that ended clean."""
        if self.known is None or not self.repaste or (levels > 0.0).all():
            return x
        clean = jnp.asarray(levels == 0.0) if not self.known.whole_frames else True
        mask = self.known.mask & jnp.reshape(clean, (1, -1) + (1,) * (self.known.mask.ndim - 2))
        return paste(self.known._replace(mask=mask), x)

    def _step(self, carry, row, receive):
        (x, state), (index, tau_t, tau_s, noise) = carry, row
        t, s = self._times(x, tau_t), self._times(x, tau_s)
        info = StepInfo(index, t, s, self._key(_HOOKS, index))
        x = self._show_known(x, t)
        if self.hooks.pre_step:
            x = self.hooks.pre_step(x, info)

        def denoise(x, t):
            x0_hat = receive(self.denoiser(x, t, self.cond))
            if self.known is not None and self.repaste:
                x0_hat = paste(self.known, x0_hat)
            return self.hooks.edit_x0(x0_hat, x, info._replace(t=t)) if self.hooks.edit_x0 else x0_hat

        down = jnp.minimum(t, s) if self.rising == "renoise" else s
        if noise is None and self.solver.stochastic:
            noise = noise_like(self._key(_SOLVER, index), x)
        x_s, x0_hat, state = self.solver.step(denoise, self.process, x, t, down, state, noise)
        if self.rising == "renoise":
            x_s = self.process.forward_step(x_s, down, s, noise_like(self._key(_RENOISE, index), x))
        if self.known is not None and not self.repaste:
            x_s = select_frames(self.known.mask, x0_hat, x_s)
        if self.hooks.post_step:
            x_s = self.hooks.post_step(x_s, x0_hat, info)
        return (x_s, state), (x_s, x0_hat)

    def _times(self, x: Clip, levels: Array) -> Time:
        times = jnp.broadcast_to(levels, leading_shape(x))
        if self.known is not None and self.known.whole_frames:
            times = jnp.where(self.known.mask, 0.0, times)
        return times

    def _show_known(self, x: Clip, t: Time) -> Clip:
        """Given content as it looks at level t: clean, or noised along one fixed path."""
        if self.known is None or not self.repaste:
            return x
        if self.known.whole_frames:
            return paste(self.known, x)
        noise = noise_like(self._key(_GIVEN, 0), x)
        return paste(self.known, x, self.process.q_sample(self.known.value, noise, t))

    def _key(self, stream: int, index: Array | int) -> Array | None:
        return None if self.rng is None else jax.random.fold_in(jax.random.fold_in(self.rng, stream), index)


def _check_noise(noise: Clip, x: Clip, steps: int) -> Clip:
    def one(draws, leaf):
        if jnp.shape(draws) != (steps, *leaf.shape):
            raise ValueError(f"noise: shape {jnp.shape(draws)} is not [K, B, T, ...]={(steps, *leaf.shape)}")
        return jnp.asarray(draws, jnp.float32)

    if jax.tree.structure(noise) != jax.tree.structure(x):
        raise ValueError("noise: has other leaves than the clip")
    return jax.tree.map(one, noise, x)


def _check_choices(steps, rng, solver, known, noise, repaste, rising, grad_last) -> None:
    inside = known is not None and not known.whole_frames
    for needed, what in (
        (solver.stochastic and noise is None, f"solver {solver}"),
        (rising == "renoise", "rising='renoise'"),
        (inside, "a mask inside frames"),
    ):
        if needed and rng is None:
            raise ValueError(f"rng: missing; {what} draws noise")
    if not repaste and (known is None or inside):
        raise ValueError("repaste: False needs `known` with a frame mask [B, T]")
    if grad_last is not None and not 0 <= grad_last <= steps:
        raise ValueError(f"grad_last: {grad_last!r} must lie between 0 and the {steps} steps of tau")
