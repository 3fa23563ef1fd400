"""From picks (index, place, flip) to batches of pixels or latents: what the read threads do.

A set that fits in memory is decoded once and then gathered (`CachedClips`); the rest is decoded each time.  Pixels
stay uint8 until they are on the device.  Latents, and the conditions stored with them, become float32, and conditions
get back the rows that were not stored.

Shape legend: B sequences, K clips of a sequence (1 unless packed), T frames, H height, W width.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.loading.order import Picks
from data_pipelines.shards.latents import VECTOR, LatentSpec
from data_pipelines.shards.manifest import ClipSpec
from data_pipelines.shards.reader import ClipSource
from vdm_jax.types import PER_FRAME_KEYS, Bucket

TokenizerFn = Callable[[list[str]], Mapping[str, np.ndarray]]
Batch = dict[str, Any]


class CachedClips:
    """Stands in for a `ClipSource`; keeps every decoded clip, filled as clips are asked for; safe for threads."""

    def __init__(self, source: ClipSource):
        clip = source.manifest.clip
        self._source = source
        self.manifest = source.manifest
        self._videos = np.empty((len(source), *clip.decoded_shape), clip.decoded_dtype)
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
    """Turns picks into batches of one bucket: decodes, cuts, mirrors, shrinks, packs, stacks, tokenizes.

    Args:
      clips: where they come from.
      bucket: shape of a batch; the set must have it (`check_bucket`).
      tokenizer_fn: captions -> arrays [N, ...] that take the place of the captions.
      conditions: of a latent set, names of the stored conditions that batches hold.
    """

    def __init__(
        self,
        clips: ClipSource | CachedClips,
        bucket: Bucket,
        tokenizer_fn: TokenizerFn | None,
        conditions: Sequence[str] = (),
    ):
        self._clips = clips
        self._bucket = bucket
        self._tokenizer_fn = tokenizer_fn
        self._entries = {name: clips.manifest.clip.conditions[name] for name in conditions}

    def __call__(self, picks: Picks) -> Batch:
        """Builds a batch, or one host's rows of it.

        Returns:
          {"video": uint8 [B, T, H, W, 3], "fps": float32 [B], "index": int64 [B], and "caption": object [B] of str,
          or in its place what the tokenizer gives}.  Of packed clips also "segments": int32 [B, T], and all but the
          video is [B, K, ...].  Of a latent set "video" is float32 [B, T, H, W, C], and conditions [B, ...] come under
          their names, `vector.<name>` under <name>.

        Raises:
          RunError: as `ClipSource`.
          ValueError: the tokenizer's arrays are not [B K, ...].
        """
        clips, lengths = [self._clips[int(i)] for i in picks.index], self._bucket.clips
        cuts = [
            self._cut(clip["video"], lengths[i % len(lengths)], picks.place[i], picks.flip[i])
            for i, clip in enumerate(clips)
        ]
        batch = {
            "fps": np.array([clip["fps"] for clip in clips], np.float32),
            "index": np.array([clip["index"] for clip in clips], np.int64),
            **self._text([clip["caption"] for clip in clips]),
            **self._stored(clips),
        }
        if not self._bucket.pack:
            return {"video": _stack(cuts), **batch}
        count = len(lengths)
        video = _stack([np.concatenate(cuts[i : i + count]) for i in range(0, len(cuts), count)])
        segments = np.repeat(np.arange(count, dtype=np.int32), lengths)
        packed = {key: value.reshape(len(video), count, *value.shape[1:]) for key, value in batch.items()}
        return {"video": video, "segments": np.tile(segments, (len(video), 1)), **packed}

    def _cut(self, video: np.ndarray, frames: int, place: float, flip: bool) -> np.ndarray:
        start = int(place * (len(video) - frames + 1))
        video = video[start : start + frames, :, :: -1 if flip else 1]
        return shrink(video, video.shape[1] // self._bucket.height)

    def _stored(self, clips: Sequence[Mapping[str, Any]]) -> Batch:
        """The conditions, those of frames as long as the bucket."""
        batch = {}
        for name, entry in self._entries.items():
            whole = np.zeros((len(clips), *entry.shape), entry.batch_dtype)
            for i, clip in enumerate(clips):
                entry.write_into(whole[i : i + 1], clip["conditions"][name])
            key = name.removeprefix(VECTOR)
            batch[key] = whole[:, : self._bucket.frames] if name in PER_FRAME_KEYS else whole
        return batch

    def _text(self, captions: Sequence[str]) -> dict[str, np.ndarray]:
        if self._tokenizer_fn is None:
            return {"caption": np.array(captions, object)}
        text = {key: np.asarray(value) for key, value in self._tokenizer_fn(list(captions)).items()}
        for key, value in text.items():
            if value.shape[:1] != (len(captions),):
                raise ValueError(f"tokenizer_fn: {key!r} has shape {list(value.shape)} for {len(captions)} captions")
        return text


def _stack(clips: Sequence[np.ndarray]) -> np.ndarray:
    """`[B, ...]`: bytes as they are, numbers as float32."""
    dtype = clips[0].dtype if clips[0].dtype == np.uint8 else np.float32
    out = np.empty((len(clips), *clips[0].shape), dtype)
    for row, clip in zip(out, clips):
        row[...] = clip
    return out


def shrink(video: np.ndarray, factor: int) -> np.ndarray:
    """`uint8 [T, H, W, 3] -> [T, H / factor, W / factor, 3]`: means of `factor x factor` pixels, rounded."""
    if factor == 1:
        return video
    t, h, w, c = video.shape
    sums = video.reshape(t, h // factor, factor, w // factor, factor, c).sum((2, 4), dtype=np.uint32)
    return ((sums + factor * factor // 2) // (factor * factor)).astype(np.uint8)


def check_bucket(bucket: Bucket, clip: ClipSpec | LatentSpec, shards: str, field: str) -> None:
    """Refuses a bucket that the clips of a set cannot fill.

    Args:
      bucket: the shape; its height and width are the stored ones, or both divided by the same whole number, which
        latents cannot be.
      clip: what is stored.
      shards: name of the set, for the message.
      field: name of the bucket, for the message.

    Raises:
      ValueError: names the field, what is stored and what would do.
    """
    if max(bucket.clips) > clip.frames:
        raise ValueError(f"{field}.frames: {max(bucket.clips)}, but the clips of {shards} have {clip.frames}")
    for name in ("height", "width"):
        size, stored = getattr(bucket, name), getattr(clip, name)
        if isinstance(clip, LatentSpec):
            if size != stored:
                raise ValueError(f"{field}.{name}: {size}, but the latents of {shards} have {stored}")
            continue
        if stored % size or stored // size != clip.height // bucket.height:
            halves = [k for k in (2, 4) if not (clip.height % k or clip.width % k)]
            smaller = [f"{clip.height // k}x{clip.width // k}" for k in halves]
            also = f" (or {', '.join(smaller)}, their means)" if smaller else ""
            raise ValueError(f"{field}.{name}: {size}, but the clips of {shards} have {stored}{also}")
