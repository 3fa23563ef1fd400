"""Which clips fill which bucket, and how a clip is cut for it.

Rate.  A clip of g frames per second is brought to f by taking, from frame s on, the frames

    s + floor(k r),   k = 0 ... T - 1,        r = g / f, or the whole number that it is within 1 % of

so a bucket of T frames needs floor((T - 1) r) + 1 stored ones, and r >= 1: frames that were never taken are not made
up.  29.97 and 30 fps are alike at 10, every third frame; the batch says 9.99 and 10.

Size.  `cover`: shrunk by max(h / H, w / W) for a bucket of h x w, the rest is cropped; never enlarged.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.shards.latents import LatentSpec
from data_pipelines.shards.manifest import ClipSpec
from vdm_jax.types import Bucket

_ALIKE = 0.01  # share by which a ratio of rates may miss a whole number
_EPSILON = 1e-6  # rates are float32
TOO_SLOW, TOO_SHORT = "too slow", "too short"


@dataclasses.dataclass(frozen=True)
class Fit:
    """Clips of one set in one bucket.

    Attributes:
      usable: positions in the split of the clips that fill it, ascending.
      unusable: position -> `TOO_SLOW` or `TOO_SHORT`, for the others.
    """

    usable: np.ndarray
    unusable: Mapping[int, str]

    def digest(self) -> str:
        """Identity of the selection."""
        return hashlib.sha256(self.usable.astype("<i8").tobytes()).hexdigest()


def ratio(stored: float, asked: float) -> float:
    """Stored frames for each frame of a batch; 1 where no rate is asked for."""
    exact = stored / asked if asked else 1.0
    whole = max(1, round(exact))
    return float(whole) if abs(exact - whole) <= _ALIKE * whole else exact


def span(frames: int, step: float) -> int:
    """Stored frames that `frames` frames of a batch reach over."""
    return int((frames - 1) * step + _EPSILON) + 1


def numbers(start: int, frames: int, step: float) -> np.ndarray:
    """Which stored frames those are, from `start` on."""
    return start + np.floor(np.arange(frames) * step + _EPSILON).astype(np.int64)


def fit(bucket: Bucket, fps: float, stored: int, rates: np.ndarray | None, records: int) -> Fit:
    """Looks which clips can be brought to a rate and then fill a bucket.

    Args:
      bucket: its clips' lengths.
      fps: the rate asked for, 0 for none.
      stored: frames of each clip.
      rates: [N] frames per second of each clip; None where no rate is asked for.
      records: N.
    """
    if not fps:
        return Fit(np.arange(records), {})
    unusable = {}
    for rate in np.unique(rates):
        step = ratio(float(rate), fps)
        short = span(max(bucket.clips), step) > stored
        if step < 1 or short:
            reason = TOO_SLOW if step < 1 else TOO_SHORT
            unusable |= dict.fromkeys(np.flatnonzero(rates == rate).tolist(), reason)
    usable = np.setdiff1d(np.arange(records), np.fromiter(unusable, np.int64, len(unusable)))
    return Fit(usable, dict(sorted(unusable.items())))


def cover(stored: tuple[int, int], asked: tuple[int, int]) -> tuple[int, int]:
    """Height and width to which a picture is shrunk so that it just covers what is asked for."""
    scale = max(a / s for a, s in zip(asked, stored))
    height, width = (max(a, round(s * scale)) for a, s in zip(asked, stored))
    return height, width


def check_bucket(bucket: Bucket, clip: ClipSpec | LatentSpec, shards: str, field: str, resize: str = "whole") -> None:
    """Refuses a bucket that no clip of a set can fill.

    Args:
      bucket: the shape.
      clip: what is stored.
      shards: name of the set, for the message.
      field: name of the bucket, for the message.
      resize: of `DataConfig`; latents are never resized.

    Raises:
      ValueError: names the field, what is stored and what would do.
    """
    if max(bucket.clips) > clip.frames:
        raise ValueError(f"{field}.frames: {max(bucket.clips)}, but the clips of {shards} have {clip.frames}")
    if bucket.fps and isinstance(clip, LatentSpec):
        raise ValueError(f"{field}.fps: {bucket.fps:g}, but {shards} holds latents, whose rate is fixed; 0 takes it")
    for name in ("height", "width"):
        size, stored = getattr(bucket, name), getattr(clip, name)
        if isinstance(clip, LatentSpec):
            if size != stored:
                raise ValueError(f"{field}.{name}: {size}, but the latents of {shards} have {stored}")
        elif resize == "cover":
            if size > stored:
                raise ValueError(f"{field}.{name}: {size}, but the clips of {shards} have {stored}")
        elif stored % size or stored // size != clip.height // bucket.height:
            halves = [k for k in (2, 4) if not (clip.height % k or clip.width % k)]
            smaller = [f"{clip.height // k}x{clip.width // k}" for k in halves]
            also = f" (or {', '.join(smaller)}, their means)" if smaller else ""
            cut = "; data.resize='cover' shrinks and crops" if size < stored else ""
            raise ValueError(f"{field}.{name}: {size}, but the clips of {shards} have {stored}{also}{cut}")


def check_usable(fits: Mapping[str, Sequence[Fit]], allowed: int, rate: float) -> dict[str, dict[int, str]]:
    """Clips that fill none of the buckets of their set.

    Args:
      fits: set -> its fits, one a bucket.
      allowed: how many there may be in all.
      rate: the lowest that is asked for, for the message.

    Returns:
      set -> position -> why.

    Raises:
      ValueError: there are more; says how many of which set for which reason, and names the first.
    """
    left = {}
    for shards, found in fits.items():
        never = set.intersection(*(set(one.unusable) for one in found))
        if never:
            left[shards] = {index: found[-1].unusable[index] for index in sorted(never)}
    count = sum(map(len, left.values()))
    if count > allowed:
        raise ValueError(f"data.max_unusable: {allowed}, but {count} clips fill no bucket: {summary(left, rate)}")
    return left


def summary(left: Mapping[str, Mapping[int, str]], rate: float = 0.0) -> str:
    """`12 of data/a too slow for 8 fps (0, 4, 7, ...), ...`; without a rate, without that part."""
    parts = []
    for shards, clips in left.items():
        for reason in sorted(set(clips.values())):
            these = [index for index, why in clips.items() if why == reason]
            first = ", ".join(map(str, these[:3])) + (", ..." if len(these) > 3 else "")
            asked = f" for {rate:g} fps" if rate else ""
            parts.append(f"{len(these)} of {shards} {reason}{asked} ({first})")
    return ", ".join(parts)
