"""The vocabulary of the project: clips, times, conditions, buckets.

Shape legend, used in every file:
  B batch, T frames, H height, W width, C channels, N tokens, L text tokens, D width, K sampling steps

Clip.  `x: [B, T, H, W, C]`, channels last; pixels are float32 in [-1, 1], latents alike.  `diffusion/` and
  `sampling/` ask only for `[B, T, ...]` (poses, tokens, graphs), or a dict of such arrays, taken leaf by leaf.

Time.  `t: [B, T]` float32 in the unit of the process (see `diffusion/`): 0 is clean, `process.t_max` is the
  prior.  `[B]` and `[B, 1]` broadcast to all frames.  A frame that is *given* is simply a frame at t = 0, so
  image-to-video, prediction and interpolation are values of `t` and `known`, not models.

Known.  `known: [B, T]` or `[B, T, H, W, 1]`, True where the content is given.

Condition.  A flat dict with the reserved keys of `CONDITION_KEYS`.

Packing.  Several short clips may share one sequence, one after the other along T.  A packed batch holds
  `segments: [B, T]` int32, the number 0 .. K - 1 of the clip that each frame belongs to, and what exists once per clip
  (`index`, `fps`, `label`, `text_ids` ...) is `[B, K, ...]` instead of `[B, ...]`.  Nothing is seen across clips, and
  each counts its own frames from 0.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vdm_jax.errors import did_you_mean

Array = jax.Array
Clip = Array | Mapping[str, Array]
Time = Array
Condition = Mapping[str, Any]

# Key -> what it holds.  "unconditional" is what guidance and condition dropout put in its place.
CONDITION_KEYS: dict[str, str] = {
    "tokens": "[B, L, D] or per frame [B, T, L, D] text features; unconditional: the encoded empty prompt",
    "tokens_mask": "[B, L] bool, True at real tokens; follows `tokens`",
    "vector": "{name: [B]} labels (int) and scalars (float: fps, motion ...); unconditional: -1",
    "concat": "[B, T, H, W, C] stacked on the channels of the input; unconditional: zeros",
    "image": "[B, L, D] features of a picture, read like `tokens`; unconditional: zeros",
    "known": "[B, T] or [B, T, H, W, 1] bool, content that is given; unconditional: all False",
    "hint": "[B, T, H, W, C] dense control picture; unconditional: zeros",
    "camera": "[B, T, 3, 4] world-to-camera; unconditional: identity",
    "tracks": "[B, T, P, 2] pixel positions of P points; unconditional: zeros",
    "audio": "[B, T, F] features of each frame's sound; unconditional: zeros",
    "image_only": "[B, T] bool, frames that are pictures by themselves: layers over time leave them as they are; has no"
    " unconditional",
    "length": "[B] int32, frames that are there; those behind are padding that no frame before sees; no unconditional",
    "start": "[B] int32, the number of the clip's first frame in the whole video; has no unconditional",
    "segments": "[B, T] int32, which of the clips that share the sequence a frame belongs to; has no unconditional",
}
# What noise sources read of a clip (`sampling.noise`); no network sees it.
NOISE_KEYS: dict[str, str] = {
    "flow": "[B, N, h, w, 2] forward, (dx, dy) in pixels of its own grid (see `geometry`); N fields between T frames",
    "noise": "[B, T, H, W, C] of unit variance, made beforehand",
}
# Those that have an entry for each frame of the clip.
PER_FRAME_KEYS = frozenset({"concat", "known", "hint", "camera", "tracks", "audio", "segments", "image_only"})


@dataclasses.dataclass(frozen=True)
class Bucket:
    """One shape of training batch; a run has a fixed list of them and compiles its step once for each.

    Attributes:
      frames, height, width: of a sequence, in pixels; one frame is an image.
      batch: sequences of a global batch.
      pack: frames of each of the clips that share a sequence, adding up to `frames`; empty is one clip a sequence.
      weight: batches of this shape in each round of all buckets.
      shards: shard set its clips come from, or its name in `data.sets`; empty is that of the run, or all of them.
      fps: frames per second that its clips are brought to, 0 is that of the run.
    """

    frames: int
    height: int
    width: int
    batch: int
    pack: tuple[int, ...] = ()
    weight: int = 1
    shards: str = ""
    fps: float = 0.0

    def __post_init__(self):
        for name in ("frames", "height", "width", "batch", "weight"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)!r} must be 1 or more")
        if self.pack and (min(self.pack) < 1 or sum(self.pack) != self.frames):
            raise ValueError(f"pack: {self.pack} must be frame counts that add up to frames={self.frames}")
        if not 0 <= self.fps < math.inf:
            raise ValueError(f"fps: {self.fps!r} must be a rate, or 0 for that of the run")

    @property
    def clips(self) -> tuple[int, ...]:
        """Frames of each clip of a sequence."""
        return self.pack or (self.frames,)

    @property
    def name(self) -> str:
        """`8x16x16 x 32`: frames x height x width x batch; `5+2+1x16x16 x 32 at 8 fps` for packed clips at a rate."""
        rate = f" at {self.fps:g} fps" if self.fps else ""
        return f"{'+'.join(map(str, self.clips))}x{self.height}x{self.width} x {self.batch}{rate}"


def as_time(t, batch: int, frames: int) -> Time:
    """Broadcasts a time to `[B, T]` float32.

    Accepts a scalar, `[B]`, `[B, 1]` or `[B, T]`.  A bare `[T]` is refused: when B = T it could not be told
    from `[B]`, and code that works until the batch has the wrong size is worse than code that never works.

    Raises:
      ValueError: any other shape.
    """
    t = jnp.asarray(t, jnp.float32)
    if t.ndim == 0:
        return jnp.broadcast_to(t, (batch, frames))
    if t.shape == (batch,):
        t = t[:, None]
    if t.shape not in ((batch, 1), (batch, frames)):
        raise ValueError(f"time: shape {t.shape} is neither [B]=({batch},) nor [B, T]=({batch}, {frames})")
    return jnp.broadcast_to(t, (batch, frames))


def check_condition(cond: Condition, reads: frozenset[str], model: str, needs: frozenset[str] = frozenset()) -> None:
    """Refuses condition keys that are unknown or that `model` would silently ignore, and a lack of those it needs.

    Args:
      cond: the condition; values are not looked at.
      reads: keys of `CONDITION_KEYS` the model reads.
      model: its name, for the message.
      needs: keys that must be there.

    Raises:
      ValueError: names the key and the nearest right spelling.
    """
    for key in cond:
        if key not in CONDITION_KEYS:
            raise ValueError(f"condition: {did_you_mean(key, CONDITION_KEYS)}")
        if key not in reads and not (key == "tokens_mask" and "tokens" in reads):
            read = ", ".join(sorted(reads)) or "none"
            raise ValueError(f"condition: {model} does not read {key!r} (it reads: {read})")
    if missing := needs - cond.keys():
        has = ", ".join(cond) or "none"
        raise ValueError(f"condition: {model} needs {', '.join(sorted(missing))} (it has: {has})")
