"""Consistency: the student says of a noisy clip what its target says one solver step further down.

    i ~ U{1 .. N}      x_t = process.q_sample(x0, eps, t_i)
    x_s = one DDIM step of the guided teacher from t_i to t_{i-1}      (Euler for EDM: the same step)
        = process.q_sample(x0, eps, t_{i-1})                           without a teacher
    loss = (t_i - t_{i-1})^p  mean( sqrt((f_student(x_t, t_i) - sg f_target(x_s, t_{i-1}))^2 + c^2) - c )

Latent consistency distillation (arXiv 2310.04378) with the pseudo-Huber metric of arXiv 2310.14189; f and the levels
t_0 .. t_N are those of `diffusion.ConsistencyGrid`.  The target follows the student (`training.recipe.Target`) and may
start elsewhere: AnimateLCM (arXiv 2402.00769) begins with a target without the low-rank pairs of its student.  The form
without a teacher, on the same x0 and eps, tunes a distilled model, or an adapter on it, on data alone.

How strongly the teacher is guided is drawn for each clip: a number of a range, or, for SVD, a ramp over its frames
between a random start and a random end.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.diffusion.consistency import ConsistencyGrid, consistent
from vdm_jax.diffusion.leaves import frame_times, leading_shape
from vdm_jax.diffusion.process import Process
from vdm_jax.objectives import Batch, Networks
from vdm_jax.objectives.denoising import DenoisingObjective, as_float, compute_dtype, drop_per_example
from vdm_jax.sampling.denoiser import Denoiser, make_denoiser
from vdm_jax.sampling.guidance import guided
from vdm_jax.sampling.noise import draw as draw_noise
from vdm_jax.types import Array, Clip, Condition, Time


@dataclasses.dataclass(frozen=True)
class GuidanceRange:
    """One scale a clip, uniform between `low` and `high`."""

    low: float = 7.5
    high: float = 7.5

    def __post_init__(self):
        if not self.low <= self.high:
            raise ValueError(f"low: {self.low!r} must be at most high ({self.high!r})")

    def __call__(self, key: Array, frames: int) -> Array:
        """`[T]` of one clip."""
        return jnp.full((frames,), jax.random.uniform(key, minval=self.low, maxval=self.high))


@dataclasses.dataclass(frozen=True)
class GuidanceRamp:
    """Scales that go evenly from one of `starts` in the first frame to one of `ends` in the last."""

    starts: tuple[float, ...] = (1.0, 1.25, 1.5)
    ends: tuple[float, ...] = (2.0, 2.25, 2.5)

    def __post_init__(self):
        for name in ("starts", "ends"):
            if not getattr(self, name):
                raise ValueError(f"{name}: () must have an entry")

    def __call__(self, key: Array, frames: int) -> Array:
        """`[T]` of one clip."""
        first, last = jax.random.split(key)
        start = jax.random.choice(first, jnp.asarray(self.starts))
        end = jax.random.choice(last, jnp.asarray(self.ends))
        return start + (end - start) * jnp.linspace(0.0, 1.0, frames)


@dataclasses.dataclass(frozen=True)
class ConsistencyObjective:
    """The loss of consistency distillation and training; see the top of this file.

    Networks: `backbone` is the student, `target` follows it, `teacher` stays; a text encoder serves all of them.

    Attributes:
      data: noising and conditions, as in ordinary training; dropout and corruption are of all three networks together.
      grid: N and the form of f.
      guidance: draws the teacher's scale; None is the form without a teacher.
      guides: conditions that the teacher is guided towards; () is a scale of 1, whatever `guidance` draws.
      huber: c; 0 is the absolute difference.
      power: p of the weight (t_i - t_{i-1})^p; -0.1 for SVD.
    """

    data: DenoisingObjective
    grid: ConsistencyGrid
    guidance: GuidanceRange | GuidanceRamp | None
    guides: tuple[str, ...] = ("tokens",)
    huber: float = 0.001
    power: float = 0.0

    def __post_init__(self):
        if not self.huber >= 0.0:
            raise ValueError(f"huber: {self.huber!r} must be 0 or more")
        self.grid.levels(self.process)

    @property
    def process(self) -> Process:
        """That of the student; a teacher must have the same, prediction included."""
        return self.data.process

    def __call__(self, networks: Networks, batch: Batch, rng: Array) -> tuple[Array, dict[str, Array]]:
        """`(loss, metrics)` of a batch; see `objectives`."""
        return self.loss(networks, batch, self.draw(batch, rng))

    def draw(self, batch: Batch, rng: Array) -> dict[str, Array]:
        """A solver step per example, and keys for noise, guidance, dropout and corruption."""
        size, _ = leading_shape(batch[self.data.clip])
        step_key, *others = jax.random.split(rng, 4)
        keys = {name: jax.random.split(key, size) for name, key in zip(("noise", "guidance", "drop"), others)}
        if self.data.corruption is not None:
            keys["worse"] = jax.random.split(jax.random.fold_in(rng, 4), size)
        return {"step": jax.random.randint(step_key, (size,), 0, self.grid.steps), **keys}

    def loss(self, networks: Networks, batch: Batch, draws: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        """`(loss, {"mse": between student and target})`, both means over examples, float32.

        Raises:
          ValueError: a network is missing; conditions as in `DenoisingObjective`; content that is given, packed clips.
        """
        cond, null = self._conditions(networks, batch, draws.get("worse"))
        cond = drop_per_example(cond, null, self.data.dropout, draws["drop"])
        return self._compared(networks, batch, cond, null, draws)

    def evaluate(self, networks: Networks, batch: Batch, rng: Array) -> dict[str, Array]:
        """`loss` and `mse` at a step of the solver for each example, with all conditions; `rng: [B]` keys."""
        worse = None if self.data.corruption is None else jax.vmap(lambda key: jax.random.fold_in(key, 4))(rng)
        cond, null = self._conditions(networks, batch, worse)
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(rng)
        step = jax.vmap(lambda key: jax.random.randint(key, (), 0, self.grid.steps))(keys[:, 0])
        draws = {"step": step, "noise": keys[:, 1], "guidance": keys[:, 2]}
        loss, metrics = self._compared(networks, batch, cond, null, draws)
        return {"loss": loss, **metrics}

    def pair(self, networks: Networks, x0: Clip, noise: Clip, t: Time, s: Time, cond, null, keys: Array):
        """(x_t, x_s), clips at both ends of a solver step.

        Args:
          networks: with `teacher`, unless `guidance` is None.
          x0, noise: clips.
          t, s: `[B, T]`, the upper and the lower level.
          cond, null: conditions, and what those that guide are without guidance.
          keys: `[B]` for the scale of guidance.
        """
        x_t = self.process.q_sample(x0, noise, t)
        if self.guidance is None:
            return x_t, self.process.q_sample(x0, noise, s)
        teacher = _denoiser(self.process, networks["teacher"])
        if self.guides:
            scale = jax.vmap(lambda key: self.guidance(key, t.shape[1]))(keys)
            if lacking := [key for key in self.guides if key not in null]:
                raise ValueError(f"guides: {lacking[0]!r} has no unconditional value in this run; leave it out")
            empty = {key: null[key] for key in null if key in self.guides or key == "tokens_mask"}
            teacher = guided(teacher, scale, empty)
        return x_t, self.process.reverse_step(x_t, teacher(x_t, t, cond), t, s)

    def says(self, network: nnx.Module, x: Clip, t: Time, cond: Condition) -> Clip:
        """f(x, t), float32."""
        belief = _denoiser(self.process, network)(x, t, cond)
        return consistent(self.process, x, belief, t, self.grid.scaling)

    def _conditions(
        self, networks: Networks, batch: Batch, worse: Array | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Conditions, and unconditional values of what is dropped or guides; checks networks and batch first."""
        for name in ("target", "teacher")[: 1 if self.guidance is None else 2]:
            if name not in networks:
                raise ValueError(f"networks: {name!r} is missing; there are {', '.join(networks)}")
        for key in ("known", "segments", "length"):
            if key in batch:
                raise ValueError(f"batch: {key!r} has no meaning in consistency distillation; leave it out")
        named = dict.fromkeys(self.guides if self.guidance else (), 0.0) | dict(self.data.dropout)
        return dataclasses.replace(self.data, dropout=named).conditions(networks, batch, worse)

    def _compared(self, networks, batch, cond, null, draws) -> tuple[Array, dict[str, Array]]:
        x0 = jax.tree.map(as_float, batch[self.data.clip])
        noise = draw_noise(self.data.noise, draws["noise"], x0, batch)
        levels = jnp.asarray(self.grid.levels(self.process)[::-1].copy())  # rising: t_0 .. t_N
        upper, lower = levels[draws["step"] + 1], levels[draws["step"]]
        t, s = frame_times(upper, x0), frame_times(lower, x0)
        x_t, x_s = jax.lax.stop_gradient(self.pair(networks, x0, noise, t, s, cond, null, draws["guidance"]))
        student = self.says(networks["backbone"], x_t, t, cond)
        target = jax.lax.stop_gradient(self.says(networks["target"], x_s, s, cond))
        weight = (upper - lower) ** self.power
        differences = [a - b for a, b in zip(*map(jax.tree.leaves, (student, target)), strict=True)]
        losses = [(weight * _per_example(pseudo_huber(d, self.huber))).mean() for d in differences]
        errors = [(d**2).mean() for d in differences]
        return sum(losses) / len(losses), {"mse": sum(errors) / len(errors)}


def pseudo_huber(x: Array, c: float) -> Array:
    """`sqrt(x^2 + c^2) - c`, elementwise, in a form that keeps its digits near 0; |x| at c = 0."""
    return jnp.abs(x) if c == 0.0 else x**2 / (jnp.sqrt(x**2 + c**2) + c)


def _per_example(x: Array) -> Array:
    return x.mean(axis=tuple(range(1, x.ndim)))


def _denoiser(process: Process, network: Any) -> Denoiser:
    """The network in its own dtype, its belief in float32."""
    dtype = compute_dtype(network)

    def called(x: Clip, time: Array, cond: Condition) -> Clip:
        output = network(jax.tree.map(lambda leaf: leaf.astype(dtype), x), time, cond)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), output)

    return make_denoiser(process, called)
