"""Videos of any length, a chunk after the other, each seeing the (last) frames before it as they are.

    driver = ChunkAutoregressive(network, process, levels, (16, 16, 3), chunk=4, keep=16)
    video = driver.video(params, given, frames=40, cond={}, rng=key)                    # [B, 40, H, W, C]

or frame by frame as they come, without an end:

    memory = driver.begin(params, given, cond, key)
    chunk, memory = driver.extend(params, memory, cond, key)

The network keeps keys and values of finished frames (`Remembering`; `models.dit`): they are written once, when a chunk
is finished, and all steps of all later chunks read them (Ca2-VDM 2411.16375, ViD-GPT 2406.10981).  A step then computes
the l frames of a chunk, where `Recomputing` computes the P frames before them too.  Shapes never change, so there are
two programs, however long the video: `begin` and `extend`.

With guidance the memory has 2 B rows, those of the unconditional half first, as the network is called (`guidance`).
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion.conditioning import unconditional
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.solvers import DDIM, Solver
from vdm_jax.sampling.denoiser import make_denoiser
from vdm_jax.sampling.guidance import guided
from vdm_jax.sampling.known import Known
from vdm_jax.sampling.sampler import Hooks, sample
from vdm_jax.sampling.tau import prediction, uniform
from vdm_jax.types import Array, Condition


class Remembering(Protocol):
    """A network that can keep finished frames; `memory` is a pytree with `written` and `capacity`."""

    table: int | None  # frames that a video can have, where places in time are rows of a table; None is any number

    def __call__(self, x: Array, t: Array, cond: Condition, memory: Any) -> Array: ...

    def memory(self, batch: int, height: int, width: int, frames: int) -> Any: ...

    def remember(self, x: Array, t: Array, cond: Condition, memory: Any) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Continuing:
    """What both ways of continuing a video have; see the top of this file.

    Attributes:
      network: parameters -> the network, `lambda params: networks.merge(params)["backbone"]`.
      process: that it was trained with.
      levels: `[K + 1]` of the sampler, `process.levels(K)`.
      size: (H, W, C) of a frame.
      chunk: l, frames that are made at once.
      keep: P, frames before them that are seen, at most; older ones are forgotten.
      trained: frames of the longest clips of training; P + l may not be more.
      first: frames that training's shortest prefixes had; None is not known.
      trained_chunk: frames that training generated at once; None is not known, or any number.
      given_level: level that finished frames are noised to before they are seen, although the network is told 0.
      solver, hooks: of the sampler.
      guidance, null: scale, and what conditions are without guidance, as for `guided`; None for none.

    Raises:
      ValueError: frames that do not fit each other.
    """

    network: Callable[[Any], Any]
    process: Process
    levels: np.ndarray
    size: tuple[int, int, int]
    chunk: int
    keep: int
    trained: int | None = None
    first: int | None = None
    trained_chunk: int | None = None
    given_level: float = 0.0
    solver: Solver = dataclasses.field(default_factory=DDIM)
    hooks: Hooks = dataclasses.field(default_factory=Hooks)
    guidance: float = 1.0
    null: Mapping[str, Any] | None = None

    def __post_init__(self):
        if self.chunk < 1 or self.keep < 1:
            raise ValueError(f"chunk: {self.chunk} and keep: {self.keep} must be 1 frame or more")
        if self.chunk > self.keep:
            raise ValueError(f"chunk: {self.chunk} frames do not fit into the keep={self.keep} frames that are seen")
        if self.trained is not None and self.keep + self.chunk > self.trained:
            raise ValueError(
                f"keep: {self.keep} frames and a chunk of {self.chunk} are more than the {self.trained} of training"
            )
        if not 0.0 <= self.given_level < self.process.t_max:
            raise ValueError(f"given_level: {self.given_level!r} must be from 0 to below {self.process.t_max:g}")
        if self.first is not None and (self.keep - self.first) % self.chunk:
            warnings.warn(
                f"keep: {self.keep} frames are no prefix of training, which had {self.first}, then {self.chunk} more"
                " each",
                stacklevel=4,
            )
        if self.trained_chunk not in (None, self.chunk):
            warnings.warn(f"chunk: {self.chunk} frames at once, training had {self.trained_chunk}", stacklevel=4)

    @property
    def rows(self) -> int:
        """Rows of the network's batch for each video: 2 with guidance."""
        return 2 if self.null and self.guidance != 1 else 1

    def _shown(self, x: Array, rng: Array) -> Array:
        """Finished frames as they are seen."""
        if self.given_level == 0.0:
            return x
        level = jnp.full(x.shape[:2], self.given_level, jnp.float32)
        return self.process.q_sample(x, jax.random.normal(rng, x.shape), level)

    def _denoiser(self, call: Callable[[Array, Array, Condition], Array]):
        denoiser = make_denoiser(self.process, call)
        return denoiser if self.rows == 1 else guided(denoiser, self.guidance, self.null)

    def _check(self, given: Array) -> None:
        if given.shape[2:] != tuple(self.size):
            raise ValueError(f"given: frames of {given.shape[2:]}, the driver makes {tuple(self.size)}")
        if given.shape[1] < 1:
            raise ValueError("given: no frame; a video is continued from one given frame or more")
        if given.shape[1] > self.keep:
            raise ValueError(f"given: {given.shape[1]} frames are more than the keep={self.keep} that are seen")


@dataclasses.dataclass(frozen=True)
class ChunkAutoregressive(Continuing):
    """Continues videos through the network's memory.

    Attributes:
      rebuild: newest frames that a video goes on from when a table of places is used up (networks with `table`): they
        get places from 0 again, and the memory is computed anew.  0 refuses such videos.
    """

    rebuild: int = 0

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.rebuild <= self.keep:
            raise ValueError(f"rebuild: {self.rebuild} must be from 0 to keep={self.keep} frames")

    def begin(self, params: Any, given: Array, cond: Condition, rng: Array, memory: Any = None) -> Any:
        """The memory of given frames `[B, P0, H, W, C]`.

        Args:
          params, cond: of the network; conditions `[B, ...]`.
          given: in the range of the process, P0 of at least 1.
          rng: a key.
          memory: an empty one to write to (`memory.reset()`); None makes one.

        Raises:
          ValueError: no frames, too many, or a memory that holds those of another video.
        """
        self._check(given)
        if memory is not None and int(memory.written):
            raise ValueError(f"memory: holds {int(memory.written)} frames of another video; use memory.reset()")
        return self._begin(params, given, dict(cond), rng, memory)

    def extend(self, params: Any, memory: Any, cond: Condition, rng: Array, batch: int) -> tuple[Array, Any]:
        """The next chunk `[B, l, H, W, C]` of `batch` videos, and the memory with it; arguments as for `begin`."""
        return self._extend(params, memory, dict(cond), rng, batch)

    def video(self, params: Any, given: Array, frames: int, cond: Condition, rng: Array) -> Array:
        """A video `[B, frames, H, W, C]` that begins with the given frames `[B, P0, H, W, C]`.

        Raises:
          ValueError: as for `begin`; a video longer than the network's table of places.
        """
        first, batch, table = given.shape[1], given.shape[0], self.network(params).table
        if table is not None and frames > table and not self.rebuild:
            raise ValueError(f"frames: {frames}, the network's table of places ends at {table}; set rebuild, or cyclic")
        video, written = given, first
        memory = self.begin(params, given, cond, jax.random.fold_in(rng, 0))
        for number in range(-(-(frames - first) // self.chunk)):
            key = jax.random.fold_in(rng, number + 1)
            if table is not None and written + self.chunk > table:
                written = min(self.rebuild, table - self.chunk)
                memory = self.begin(params, video[:, -written:], cond, jax.random.fold_in(key, 0))
            chunk, memory = self.extend(params, memory, cond, key, batch)
            video, written = jnp.concatenate([video, chunk], axis=1), written + self.chunk
        return video[:, :frames]

    @functools.cached_property
    def _begin(self):
        def begin(params, given, cond, rng, memory):
            network = self.network(params)
            if memory is None:
                memory = network.memory(self.rows * given.shape[0], *self.size[:2], self.keep)
            return self._write(network, given, cond, rng, memory)

        return jax.jit(begin)

    @functools.cached_property
    def _extend(self):
        def extend(params, memory, cond, rng, batch):
            network = self.network(params)
            prior_key, loop_key, write_key = jax.random.split(rng, 3)
            denoiser = self._denoiser(lambda x, t, cond: network(x, t, cond, memory))
            x_T = self.process.prior(prior_key, jnp.zeros((batch, self.chunk, *self.size)))
            tau = uniform(self.levels, self.chunk)
            chunk = sample(denoiser, self.process, x_T, tau, cond, rng=loop_key, solver=self.solver, hooks=self.hooks)
            return chunk, self._write(network, chunk, cond, write_key, memory)

        return jax.jit(extend, static_argnums=4)

    def _write(self, network: Remembering, x: Array, cond: Condition, rng: Array, memory: Any) -> Any:
        """The memory with finished frames, told as clean."""
        x = self._shown(x, rng)
        t = jnp.zeros(x.shape[:2])
        x = self.process.network_input(x, t)
        if self.rows == 2:
            x, t = jnp.concatenate([x, x]), jnp.concatenate([t, t])
            keys = [key for key in self.null if key != "tokens_mask"]
            cond = jax.tree.map(lambda *two: jnp.concatenate(two), unconditional(cond, self.null, keys), dict(cond))
        return network.remember(x, self.process.network_time(t), cond, memory)


@dataclasses.dataclass(frozen=True)
class Recomputing(Continuing):
    """Continues videos by computing the frames before each chunk again, in every step, in front of the chunk.

    For any network that takes given frames at time 0 (`known` is told to those that read it); what a memory is to be
    measured against.
    """

    def extend(self, params: Any, before: Array, cond: Condition, rng: Array) -> Array:
        """The chunk `[B, l, H, W, C]` behind the frames `[B, P, H, W, C]`; a program for each P."""
        self._check(before)
        return self._extend(params, before, dict(cond), rng)

    def video(self, params: Any, given: Array, frames: int, cond: Condition, rng: Array) -> Array:
        """A video `[B, frames, H, W, C]` that begins with the given frames `[B, P0, H, W, C]`."""
        video = given
        for number in range(-(-(frames - given.shape[1]) // self.chunk)):
            key = jax.random.fold_in(rng, number + 1)
            video = jnp.concatenate([video, self.extend(params, video[:, -self.keep :], cond, key)], axis=1)
        return video[:, :frames]

    @functools.cached_property
    def _extend(self):
        def extend(params, before, cond, rng):
            network, (batch, given) = self.network(params), before.shape[:2]
            prior_key, loop_key, shown_key = jax.random.split(rng, 3)
            shape = (batch, given + self.chunk, *self.size)
            mask = jnp.broadcast_to(jnp.arange(shape[1]) < given, shape[:2])
            seen = jnp.zeros(shape).at[:, :given].set(self._shown(before, shown_key))
            cond = {**cond, "known": mask} if "known" in network.reads else cond
            x_T = self.process.prior(prior_key, jnp.zeros(shape))
            options = {"rng": loop_key, "solver": self.solver, "hooks": self.hooks, "known": Known(mask, seen)}
            tau = prediction(self.levels, shape[1], given)
            return sample(self._denoiser(network), self.process, x_T, tau, cond, **options)[:, given:]

        return jax.jit(extend)
