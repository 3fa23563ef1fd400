"""From picks (index, first frame, flip) to batches of pixels: what the read threads do.

A set that fits in memory is decoded once and then gathered (`CachedClips`); the rest is decoded each time.  Pixels
stay uint8 until they are on the device.

Shape legend: B batch, T frames, H height, W width.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.shards.reader import ClipSource

TokenizerFn = Callable[[list[str]], Mapping[str, np.ndarray]]
Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Picks:
    """Which clips make a batch; each field is [B].

    Attributes:
      index: int64, position in the split.
      start: int64, first frame.
      flip: bool, mirror left and right.
    """

    index: np.ndarray
    start: np.ndarray
    flip: np.ndarray


class CachedClips:
    """Stands in for a `ClipSource`; keeps every decoded clip, filled as clips are asked for; safe for threads."""

    def __init__(self, source: ClipSource):
        clip = source.manifest.clip
        self._source = source
        self._videos = np.empty((len(source), clip.frames, clip.height, clip.width, 3), np.uint8)
        self._rest: list[dict[str, Any] | None] = [None] * len(source)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        rest = self._rest[index]
        if rest is None:  # two threads may both decode it, and store the same
            rest = dict(self._source[index])
            self._videos[index] = rest.pop("video")
            self._rest[index] = rest
        return {**rest, "video": self._videos[index]}


class BatchAssembler:
    """Turns picks into a batch: decodes, cuts, mirrors, stacks, tokenizes."""

    def __init__(self, clips: ClipSource | CachedClips, frames: int, tokenizer_fn: TokenizerFn | None):
        self._clips = clips
        self._frames = frames
        self._tokenizer_fn = tokenizer_fn

    def __call__(self, picks: Picks) -> Batch:
        """Builds a batch.

        Returns:
          {"video": uint8 [B, T, H, W, 3], "fps": float32 [B], "index": int64 [B], and "caption": object [B] of str,
          or in its place what the tokenizer gives}.

        Raises:
          RunError: as `ClipSource`.
          ValueError: the tokenizer's arrays are not [B, ...].
        """
        clips = [self._clips[int(i)] for i in picks.index]
        videos = [
            clip["video"][start : start + self._frames, :, :: -1 if flip else 1]
            for clip, start, flip in zip(clips, picks.start, picks.flip)
        ]
        return {
            "video": np.stack(videos),
            "fps": np.array([clip["fps"] for clip in clips], np.float32),
            "index": np.array([clip["index"] for clip in clips], np.int64),
            **self._text([clip["caption"] for clip in clips]),
        }

    def _text(self, captions: Sequence[str]) -> dict[str, np.ndarray]:
        if self._tokenizer_fn is None:
            return {"caption": np.array(captions, object)}
        text = {key: np.asarray(value) for key, value in self._tokenizer_fn(list(captions)).items()}
        for key, value in text.items():
            if value.shape[:1] != (len(captions),):
                raise ValueError(f"tokenizer_fn: {key!r} has shape {list(value.shape)} for {len(captions)} captions")
        return text
