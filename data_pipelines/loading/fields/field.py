"""The contract of a field, and what it is computed of."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Cut:
    """A clip as it comes into a batch, and how it was cut out of the stored one.

    Attributes:
      video: uint8 [T, H, W, 3], as in the batch: resized, cropped, mirrored.
      index: of the clip in its split.
      arrays: name -> array that the set stores for the whole clip, as it is.
      numbers: [T], the stored frames that were taken.
      frames: how many are stored.
      scale: pixels of the batch for one stored pixel, down and right.
      corner: the first row and column of the resized clip that is in the batch.
      flip: whether left and right were exchanged, after all that.
      covers: how it was resized: as `media.window.resize` does it, or to the means of whole blocks.
    """

    video: np.ndarray
    index: int
    arrays: Mapping[str, np.ndarray]
    numbers: np.ndarray
    frames: int
    scale: tuple[float, float]
    corner: tuple[int, int]
    flip: bool
    covers: bool = False


class Field(Protocol):
    """One kind of knowledge about a clip.

    Attributes:
      name: in `data.fields`, and its key in batches.
      needs: names of the arrays that the set must store.
      whole_rate: it is about neighbouring frames, so that none may be left out (`data.fps`).
    """

    name: str
    needs: tuple[str, ...]
    whole_rate: bool

    def check(self) -> None:
        """Raises ValueError where what computes it is not installed."""

    def compute(self, cut: Cut) -> np.ndarray:
        """The field of one clip, of the same shape and type for all clips of a bucket; a pure function.

        Raises:
          RunError: the stored arrays are not what they should be.
        """
