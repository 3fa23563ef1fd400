"""Task masks: what of a clip is given in training, so that one model learns many tasks (VDT, arXiv 2305.13311).

A sampler draws the task of ONE clip from a key, so that an example's task does not depend on the batch that it came in:

  Ends        the first and the last frames are given      prediction, backward prediction, transition; none: generation
  Prefix      the first of a few numbers of frames         continuing a video chunk by chunk
  Strided     every n-th frame                             interpolation
  OneFrame    one frame, anywhere                          animation of a picture
  Bernoulli   each frame by itself
  Blocks      all but rectangles in a span of frames       completion in space and time (rectangles of BEiT, 2106.08254)
  Mixture     one of several, by their shares

    tasks = draw_tasks(Mixture((Ends(first=8), Ends(), OneFrame())), keys, (16, 32, 32))
    tasks.known                                            bool [B, 16]

True is given, as everywhere here; papers that write a mask with 1 for "generate" mean its opposite.

Shape legend: T frames, H height and W width of the clip that is denoised (of latents, not of their pixels).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from vdm_jax.types import Array


class Task(NamedTuple):
    """What is asked of a clip.

    Attributes:
      known: bool `[T]` or `[T, H, W, 1]`, True where content is given.
      counts: bool `[T]`, frames whose error counts as far as they are not given; None is all of them.
      told: conditions that belong to the task, of `types.CONDITION_KEYS`; None is nothing.
    """

    known: Array
    counts: Array | None = None
    told: Mapping[str, Array] | None = None


class MaskSampler(Protocol):
    """Draws the task of one clip."""

    def __call__(self, rng: Array, shape: Sequence[int]) -> Task:
        """Args:
          rng: a key.
          shape: of the clip without batch and channels, `(T, H, W)`, or `(T,)` where frames have no such sides.

        Raises:
          ValueError: a clip in which this task leaves nothing to generate, or has no place.
        """


@dataclasses.dataclass(frozen=True)
class Ends:
    """The first and the last frames are given.

    Attributes:
      first, last: how many of them; 0 and 0 is generation from nothing.
    """

    first: int = 0
    last: int = 0

    def __post_init__(self):
        for name in ("first", "last"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} must be 0 frames or more")

    def __call__(self, rng: Array, shape: Sequence[int]) -> Task:
        frames = shape[0]
        if self.first + self.last >= frames:
            raise ValueError(
                f"masks: first={self.first} and last={self.last} leave nothing to generate of a clip of {frames} frames"
            )
        place = jnp.arange(frames)
        return Task((place < self.first) | (place >= frames - self.last))


@dataclasses.dataclass(frozen=True)
class Prefix:
    """The first P frames are given and a chunk behind them is generated, P of `first`, `first + step` ... (2411.16375).

    What is behind the chunk is cut off: its error does not count, and the network is told its `length`, so that no
    frame of the chunk sees it.

    Attributes:
      first: the shortest prefix, 1 or more.
      step: from one prefix to the next; 1 is every number of frames.
      chunk: frames that are generated; 0 is all that follow the prefix.
      cyclic: tell the network which place in time the first frame has (`start`): any, where the chunk ends the clip,
        else 0.  For tables of places that repeat after as many frames as the clip has.
    """

    first: int = 1
    step: int = 1
    chunk: int = 0
    cyclic: bool = False

    def __post_init__(self):
        for name, low in (("first", 1), ("step", 1), ("chunk", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name}: {getattr(self, name)} must be {low} or more frames")

    def prefixes(self, frames: int) -> tuple[int, ...]:
        """The prefixes of a clip.

        Raises:
          ValueError: there is none.
        """
        every = tuple(range(self.first, frames - max(self.chunk, 1) + 1, self.step))
        if not every:
            raise ValueError(
                f"masks: first={self.first} given frames and a chunk of {max(self.chunk, 1)} are more than the"
                f" {frames} frames of the clip"
            )
        return every

    def __call__(self, rng: Array, shape: Sequence[int]) -> Task:
        frames, place = shape[0], jnp.arange(shape[0])
        choice_key, start_key = jax.random.split(rng)
        given = jax.random.choice(choice_key, jnp.asarray(self.prefixes(frames)))
        length = given + self.chunk if self.chunk else jnp.asarray(frames)
        told = {"length": length.astype(jnp.int32)}
        if self.cyclic:
            told["start"] = jnp.where(length == frames, jax.random.randint(start_key, (), 0, frames), 0)
        return Task(place < given, place < length, told)


@dataclasses.dataclass(frozen=True)
class Strided:
    """Frames 0, step, 2 step ... are given."""

    step: int = 4

    def __post_init__(self):
        if self.step < 2:
            raise ValueError(f"step: {self.step} must be 2 or more, or nothing is left between the given frames")

    def __call__(self, rng: Array, shape: Sequence[int]) -> Task:
        if shape[0] < 2:
            raise ValueError("masks: step leaves nothing to generate of a clip of one frame")
        return Task(jnp.arange(shape[0]) % self.step == 0)


@dataclasses.dataclass(frozen=True)
class OneFrame:
    """One frame is given, any of them with the same probability."""

    def __call__(self, rng: Array, shape: Sequence[int]) -> Task:
        if shape[0] < 2:
            raise ValueError("masks: one_frame leaves nothing to generate of a clip of one frame")
        return Task(jnp.arange(shape[0]) == jax.random.randint(rng, (), 0, shape[0]))


@dataclasses.dataclass(frozen=True)
class Bernoulli:
    """Each frame by itself is unknown with a probability; it may happen that all are given."""

    unknown: float = 0.8

    def __post_init__(self):
        if not 0.0 < self.unknown <= 1.0:
            raise ValueError(f"unknown: {self.unknown!r} is not a probability above 0, allowed: up to 1")

    def __call__(self, rng: Array, shape: Sequence[int]) -> Task:
        return Task(~jax.random.bernoulli(rng, self.unknown, (shape[0],)))


@dataclasses.dataclass(frozen=True)
class Blocks:
    """A union of random rectangles is unknown, the same in every frame of a span; all else is given.

    Rectangles are drawn one after the other and taken where they fit and stay within `most` (BEiT's blockwise masks).

    Attributes:
      most: share of a frame that is unknown, at most; about that much is.
      least: area of a rectangle, at least, in elements of the clip.
      aspect: height to width of the flattest rectangle; the steepest has its inverse.
      margin: up to so many frames are given whole at each end, evenly drawn from 0.
      tries: rectangles drawn.
    """

    most: float = 0.5
    least: int = 4
    aspect: float = 0.3
    margin: int = 3
    tries: int = 16

    def __post_init__(self):
        if not 0.0 < self.most <= 1.0:
            raise ValueError(f"most: {self.most!r} is not a share of the frame above 0, allowed: up to 1")
        if not 0.0 < self.aspect <= 1.0:
            raise ValueError(f"aspect: {self.aspect!r} must be above 0 and at most 1")
        for name, low in (("least", 1), ("margin", 0), ("tries", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name}: {getattr(self, name)} must be {low} or more")

    def __call__(self, rng: Array, shape: Sequence[int]) -> Task:
        if len(shape) != 3:
            raise ValueError(f"masks: blocks need frames with a height and a width, the clip is {tuple(shape)}")
        frames, height, width = shape
        if 2 * self.margin >= frames:
            raise ValueError(f"masks: margin={self.margin} at both ends may be all of a clip of {frames} frames")
        if self.least > self.most * height * width or min(height, width) < 2:
            raise ValueError(f"masks: no block of {self.least} is within {self.most:g} of a frame of {height}x{width}")
        span_key, plane_key = jax.random.split(rng)
        start, stop = jax.random.randint(span_key, (2,), 0, self.margin + 1)
        place = jnp.arange(frames)
        inside = (place >= start) & (place < frames - stop)
        plane = self._plane(plane_key, height, width)
        return Task(~(inside[:, None, None] & plane)[..., None])

    def _plane(self, rng: Array, height: int, width: int) -> Array:
        """The unknown part of a frame, bool `[H, W]`."""
        rows, columns = jnp.arange(height)[:, None], jnp.arange(width)

        def rectangle(plane: Array, key: Array) -> tuple[Array, None]:
            room = self.most * height * width - plane.sum()
            area_u, aspect_u, top_u, left_u = jax.random.uniform(key, (4,))
            area = self.least + area_u * jnp.maximum(room - self.least, 0.0)
            slope = jnp.exp((2.0 * aspect_u - 1.0) * -math.log(self.aspect))
            h, w = jnp.round(jnp.sqrt(area * slope)), jnp.round(jnp.sqrt(area / slope))
            top, left = jnp.floor(top_u * (height - h + 1)), jnp.floor(left_u * (width - w + 1))
            more = plane | ((rows >= top) & (rows < top + h) & (columns >= left) & (columns < left + w))
            fits = (h * w >= self.least) & (h <= height) & (w <= width)
            return jnp.where(fits & (more.sum() <= self.most * height * width), more, plane), None

        plane, _ = jax.lax.scan(rectangle, jnp.zeros((height, width), bool), jax.random.split(rng, self.tries))
        # One that is always there: where chance rejected all rectangles, there would be nothing to learn.
        side = max(1, math.isqrt(self.least))
        tall = min(height, -(-self.least // side))
        fallback = (rows < tall) & (columns < min(width, side))
        return jnp.where(plane.any(), plane, fallback)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """One of several tasks.

    Attributes:
      parts: the tasks.
      shares: how often each comes, relative to the others; empty is all equally often.
    """

    parts: tuple[MaskSampler, ...]
    shares: tuple[float, ...] = ()

    def __post_init__(self):
        if not self.parts:
            raise ValueError("parts: a mixture needs at least one task")
        if self.shares and len(self.shares) != len(self.parts):
            raise ValueError(f"shares: {len(self.shares)} of them for {len(self.parts)} tasks")
        if any(not 0.0 < share < math.inf for share in self.shares):
            raise ValueError(f"shares: {self.shares} must be numbers above 0")

    def __call__(self, rng: Array, shape: Sequence[int]) -> Task:
        choice_key, *keys = jax.random.split(rng, 1 + len(self.parts))
        tasks = [part(key, shape) for part, key in zip(self.parts, keys)]
        shares = jnp.asarray(self.shares or (1.0,) * len(self.parts))
        choice = jax.random.categorical(choice_key, jnp.log(shares))
        inside = any(task.known.ndim > 1 for task in tasks)
        known = [
            task.known.reshape(shape[0], 1, 1, 1) if inside and task.known.ndim == 1 else task.known for task in tasks
        ]
        told = [task.told or {} for task in tasks]
        if any(one.keys() != told[0].keys() for one in told):
            raise ValueError(f"masks: tasks that tell {sorted(set().union(*told))} do not mix with those that do not")
        told = jax.tree.map(lambda *values: jnp.stack(values)[choice], *told) or None
        whole = (*shape, 1) if inside else tuple(shape[:1])
        known = jnp.stack([jnp.broadcast_to(mask, whole) for mask in known])[choice]
        if all(task.counts is None for task in tasks):
            return Task(known, None, told)
        every = jnp.ones(shape[0], bool)
        counts = jnp.stack([every if task.counts is None else task.counts for task in tasks])[choice]
        return Task(known, counts, told)


def draw_tasks(sampler: MaskSampler, keys: Array, shape: Sequence[int]) -> Task:
    """The tasks of a batch, `known [B, T]` or `[B, T, H, W, 1]`, from keys `[B]`; `shape` as for the sampler."""
    return jax.vmap(lambda key: sampler(key, shape))(keys)
