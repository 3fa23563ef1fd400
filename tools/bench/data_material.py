"""Kinds of clips that `tools/bench_data` loads.

In a file of its own, which imports nothing of ours: PyTorch's worker processes read it too, and should be no heavier
than those of somebody who uses PyTorch alone.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Material:
    """Clips of one kind.

    Attributes:
      name: of the kind.
      codec: of `shards.schema.CODECS`, or `latents`.
      stored: (T, H, W, C) of a clip as stored.
      taken: (T, H, W) of a clip in a batch.
      distinct: clips that are encoded; more are the same ones again, as an encoder takes seconds for each.
      clips: in the set.
      batches: timed in one turn.
    """

    name: str
    codec: str
    stored: tuple[int, int, int, int]
    taken: tuple[int, int, int]
    distinct: int
    clips: int
    batches: int

    @property
    def suffix(self) -> str:
        """Of its files."""
        return "mp4" if self.codec.startswith("h264") else "bin"

    @property
    def dtype(self) -> np.dtype:
        """As stored."""
        return np.dtype(np.float16 if self.codec == "latents" else np.uint8)

    @property
    def whole(self) -> bool:
        """Whether batches take clips as they are stored."""
        return self.stored[:3] == self.taken


def materials(quick: bool) -> list[Material]:
    """The four kinds that users have; `quick` ones are tiny."""
    if quick:
        return [
            Material("mp4_720", "h264", (12, 72, 128, 3), (4, 32, 56), 2, 32, 2),
            Material("mp4_256", "h264", (4, 32, 32, 3), (4, 32, 32), 2, 32, 2),
            Material("raw", "raw", (4, 32, 32, 3), (4, 32, 32), 4, 32, 2),
            Material("latents", "latents", (2, 8, 8, 16), (2, 8, 8), 8, 64, 2),
        ]
    return [
        Material("mp4_720", "h264", (96, 720, 1280, 3), (16, 256, 448), 8, 128, 12),
        Material("mp4_256", "h264", (16, 256, 256, 3), (16, 256, 256), 32, 512, 60),
        Material("raw", "raw", (16, 256, 256, 3), (16, 256, 256), 32, 128, 150),
        Material("latents", "latents", (4, 32, 32, 16), (4, 32, 32), 256, 2048, 500),
    ]
