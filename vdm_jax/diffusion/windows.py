"""Short windows over the frames of a long clip, and the weighted mean of what is made in each of them.

    window i = frames [s i, s i + w)             O_f = sum_i W(f - s i) O_f^i / sum_i W(f - s i)

Window attention fuses hidden states this way (FreeNoise, arXiv 2310.15169), co-denoising fuses beliefs (Gen-L-Video,
arXiv 2305.18264).  A frame that no window holds would keep whatever it was, so that is refused.

Shape legend: N frames of the clip, n windows, w frames of each.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from vdm_jax.errors import did_you_mean
from vdm_jax.types import Array

WEIGHTS = ("triangular", "uniform")
COVERS = ("exact", "shift_last")


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of one size at one stride.

    Attributes:
      size: w.
      stride: s, from the start of a window to that of the next.
      weights: of the frames of a window: `triangular` (1, 2, ..., 2, 1), `uniform`, or w numbers.
      cover: what is done about frames behind the last whole stride: `exact` refuses such a clip, `shift_last` adds a
        window that ends with it.

    Raises:
      ValueError: names the field and what is allowed.
    """

    size: int = 16
    stride: int = 4
    weights: str | tuple[float, ...] = "triangular"
    cover: str = "exact"

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"size: {self.size!r} must be 1 or more")
        if not 1 <= self.stride <= self.size:
            raise ValueError(f"stride: {self.stride!r} must be 1 to size={self.size}, or frames would be in no window")
        if self.cover not in COVERS:
            raise ValueError(f"cover: {did_you_mean(self.cover, COVERS)}")
        if isinstance(self.weights, str):
            if self.weights not in WEIGHTS:
                raise ValueError(f"weights: {did_you_mean(self.weights, WEIGHTS)}")
        elif len(self.weights) != self.size or not (np.isfinite(self.weights).all() and min(self.weights) >= 0):
            raise ValueError(f"weights: {self.weights!r} must be {self.size} numbers of at least 0, one a frame")

    @property
    def profile(self) -> np.ndarray:
        """W, `[w]` float64."""
        if not isinstance(self.weights, str):
            return np.asarray(self.weights, np.float64)
        places = np.arange(self.size, dtype=np.float64)
        return np.minimum(places, places[::-1]) + 1 if self.weights == "triangular" else np.ones(self.size)

    def scaled(self, patch: int) -> "Windows":
        """The same windows where a token holds `patch` frames.

        Raises:
          ValueError: the patch does not divide size or stride, or the weights are given one by one.
        """
        if patch == 1:
            return self
        for name in ("size", "stride"):
            if getattr(self, name) % patch:
                raise ValueError(f"{name}: {getattr(self, name)} is not divisible by the {patch} frames of a token")
        if not isinstance(self.weights, str):
            raise ValueError(f"weights: {self.weights!r} are of frames, but a token holds {patch}; name a kind")
        return dataclasses.replace(self, size=self.size // patch, stride=self.stride // patch)

    def starts(self, frames: int) -> np.ndarray:
        """First frame of each window, `[n]` int.

        Raises:
          ValueError: fewer frames than a window has; frames in no window; a frame without weight.
        """
        if frames < self.size:
            raise ValueError(f"frames: {frames} is less than a window of {self.size}")
        starts = np.arange(0, frames - self.size + 1, self.stride)
        if left := (frames - self.size) % self.stride:
            if self.cover == "exact":
                raise ValueError(
                    f"frames: {frames} leaves the last {left} in no window of {self.size} at stride {self.stride};"
                    f" the nearest that fit: {frames - left} and {frames - left + self.stride}"
                    " (or cover='shift_last')"
                )
            starts = np.append(starts, frames - self.size)
        total = np.zeros(frames)
        for start in starts:
            total[start : start + self.size] += self.profile
        if total.min() <= 0:
            raise ValueError(f"weights: {self.weights!r} give frame {int(total.argmin())} of {frames} no weight at all")
        return starts

    def places(self, frames: int) -> np.ndarray:
        """Which frames each window holds, `[n, w]` int; raises as `starts`."""
        return self.starts(frames)[:, None] + np.arange(self.size)

    def shares(self, frames: int) -> np.ndarray:
        """What each window has to say of each of its frames, `[n, w]` float32; adds up to 1 for every frame."""
        places = self.places(frames)
        total = np.bincount(places.ravel(), np.tile(self.profile, len(places)), frames)
        return (self.profile / total[places]).astype(np.float32)

    def cut(self, x: Array, axis: int) -> Array:
        """`[..., N, ...] -> [..., n, w, ...]`; raises as `starts`."""
        return jnp.take(x, jnp.asarray(self.places(x.shape[axis])), axis=axis)

    def fuse(self, parts: Array, frames: int, axis: int) -> Array:
        """`[..., n, w, ...] -> [..., N, ...]`, the weighted mean; `axis` is that of n.  Sums are float32."""
        index, shares = _contributions(self, frames)
        shape = (*parts.shape[:axis], -1, *parts.shape[axis + 2 :])
        flat = parts.reshape(shape)
        rank = [1] * axis + [frames] + [1] * (flat.ndim - axis - 1)
        each = (jnp.take(flat, i, axis=axis).astype(jnp.float32) * s.reshape(rank) for i, s in zip(index, shares))
        return functools.reduce(jnp.add, each).astype(parts.dtype)


@functools.lru_cache(maxsize=32)
def _contributions(windows: Windows, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """For each frame the numbers of its places among all n w, and their shares: `[k, N]` each, k windows at most.

    Gathering these is deterministic and, unlike adding into the frames, needs no pass for each window.
    """
    places, shares = windows.places(frames).ravel(), windows.shares(frames).ravel()
    order = np.argsort(places, kind="stable")
    rank = np.arange(len(places)) - np.searchsorted(places[order], places[order])
    index = np.zeros((rank.max() + 1, frames), np.int32)
    share = np.zeros((rank.max() + 1, frames), np.float32)
    index[rank, places[order]], share[rank, places[order]] = order, shares[order]
    return index, share
