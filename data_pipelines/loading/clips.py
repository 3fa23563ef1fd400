"""From picks (set, clip, place, flip ...) to batches of pixels or latents: what the read threads do.

A set that fits in memory is decoded once and then gathered (`CachedClips`); of the rest only the frames that a batch
takes are decoded.  Pixels stay uint8 and latents of the type in which they are stored until they are on the device:
half the bytes to move, and numpy takes longer to widen float16 than all else takes.  Conditions become float32, and
get back the rows that were not stored.

Shape legend: B sequences, K clips of a sequence (1 unless packed), T frames, H height, W width.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.loading import captions
from data_pipelines.loading.fields.field import Cut, Field
from data_pipelines.loading.fit import check_bucket, cover, numbers, ratio, span
from data_pipelines.loading.order import Picks
from data_pipelines.loading.shrinking import shrink
from data_pipelines.shards.latents import VECTOR, LatentSpec
from data_pipelines.shards.reader import Choose, ClipSource
from data_pipelines.shards.schema import frames_at
from vdm_jax.errors import RunError
from vdm_jax.media.window import resize
from vdm_jax.types import PER_FRAME_KEYS, Bucket

__all__ = ["BatchAssembler", "CachedClips", "check_bucket", "shrink"]

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

    def window(self, index: int, choose: Choose, size: tuple[int, int] | None = None) -> dict[str, Any]:
        """See `ClipSource.window`."""
        clip = self[index]
        taken = choose(clip["fps"], len(clip["video"]))
        if taken is None:  # only what took the place of a damaged clip may not do
            return self._source.window(index, choose, size)
        video = frames_at(clip["video"], taken)
        return {**clip, "video": video if size is None else resize(video, *size), "numbers": taken}


class BatchAssembler:
    """Turns picks into batches of one bucket: decodes, cuts, mirrors, shrinks, packs, stacks, tokenizes.

    Args:
      clips: where they come from, one set or several.
      bucket: shape of a batch; the sets must have it (`check_bucket`).
      tokenizer_fn: captions -> arrays [N, ...] that take the place of the captions.
      conditions: of latent sets, names of the stored conditions that batches hold.
      resize: of `DataConfig`.
      fields: of `DataConfig`.
    """

    def __init__(
        self,
        clips: ClipSource | CachedClips | Sequence[ClipSource | CachedClips],
        bucket: Bucket,
        tokenizer_fn: TokenizerFn | None,
        conditions: Sequence[str] = (),
        resize: str = "whole",
        fields: Sequence[Field] = (),
    ):
        self._clips = list(clips) if isinstance(clips, list | tuple) else [clips]
        self._bucket = bucket
        self._tokenizer_fn = tokenizer_fn
        self._fields = fields
        specs = [source.manifest.clip for source in self._clips]
        self._entries = [{name: spec.conditions[name] for name in conditions} for spec in specs]
        asked = bucket.height, bucket.width
        covers = resize == "cover" and not isinstance(specs[0], LatentSpec)
        self._stored_sizes = [(spec.height, spec.width) for spec in specs]
        self._sizes = [cover((spec.height, spec.width), asked) if covers else None for spec in specs]

    def __call__(self, picks: Picks) -> Batch:
        """Builds a batch, or one host's rows of it.

        Returns:
          {"video": uint8 [B, T, H, W, 3], "fps": float32 [B], "index": int64 [B], and "caption": object [B] of str,
          or in its place what the tokenizer gives}.  Of packed clips also "segments": int32 [B, T], and all but the
          video is [B, K, ...].  Of a latent set "video" is [B, T, H, W, C] as stored, and conditions [B, ...] come
          under their names, `vector.<name>` under <name>; so do fields.

        Raises:
          RunError: as `ClipSource`; or captions that cannot be drawn from.
          ValueError: the tokenizer's arrays are not [B K, ...].
        """
        lengths = self._bucket.clips
        clips = [self._clip(picks, i, lengths[i % len(lengths)]) for i in range(len(picks.index))]
        cuts = [clip["video"] for clip in clips]
        batch = {
            "fps": np.array([clip["fps"] for clip in clips], np.float32),
            "index": np.array([clip["index"] for clip in clips], np.int64),
            **self._text([clip["caption"] for clip in clips]),
            **self._stored(clips, picks.part),
            **{
                field.name: _same_shape([clip["computed"][field.name] for clip in clips], field)
                for field in self._fields
            },
        }
        if not self._bucket.pack:
            return {"video": _stack(cuts), **batch}
        count = len(lengths)
        video = _stack([np.concatenate(cuts[i : i + count]) for i in range(0, len(cuts), count)])
        segments = np.repeat(np.arange(count, dtype=np.int32), lengths)
        packed = {key: value.reshape(len(video), count, *value.shape[1:]) for key, value in batch.items()}
        return {"video": video, "segments": np.tile(segments, (len(video), 1)), **packed}

    def _clip(self, picks: Picks, i: int, frames: int) -> dict[str, Any]:
        """One clip as it comes into the batch: its frames, its rate, its caption."""
        part, index, flip = int(picks.part[i]), int(picks.index[i]), bool(picks.flip[i])
        fps = self._bucket.fps

        def choose(stored_fps: float, stored: int) -> np.ndarray | None:
            step = ratio(stored_fps, fps)
            reach = span(frames, step)
            if step < 1 or reach > stored:
                return None
            return numbers(int(picks.place[i] * (stored - reach + 1)), frames, step)

        clip = self._clips[part].window(index, choose, self._sizes[part])
        corner = self._corner(clip["video"], picks.crop[i])
        video = self._cropped(clip["video"], corner)[:, :, :: -1 if flip else 1]
        try:
            caption = captions.drawn(clip["caption"], clip["labels"], picks.caption[i])
        except RunError as error:
            raise RunError(f"clip {index} of {clip['source']}: {error}") from None
        return {
            **clip,
            "video": video,
            "computed": self._computed(clip, video, part, corner, flip),
            "fps": clip["fps"] / ratio(clip["fps"], fps),
            "caption": captions.mirrored(caption) if flip else caption,
        }

    def _corner(self, video: np.ndarray, crop: np.ndarray) -> tuple[int, int]:
        """Where the part of a clip that is taken begins, in pixels of the resized clip."""
        if self._sizes[0] is None:
            return 0, 0
        asked = self._bucket.height, self._bucket.width
        top, left = (int(at * (n - m + 1)) for at, n, m in zip(crop, video.shape[1:3], asked))
        return top, left

    def _cropped(self, video: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
        """To the bucket's height and width: by means of whole blocks, or the part of it at `corner`."""
        height, width = self._bucket.height, self._bucket.width
        if self._sizes[0] is None:
            return shrink(video, video.shape[1] // height)
        top, left = corner
        return video[:, top : top + height, left : left + width]

    def _computed(self, clip: Mapping[str, Any], video: np.ndarray, part: int, corner: tuple[int, int], flip: bool):
        """Name -> array of the fields that batches hold."""
        if not self._fields:
            return {}
        stored = self._stored_sizes[part]
        resized = self._sizes[part] or (self._bucket.height, self._bucket.width)
        cut = Cut(
            video=video,
            index=clip["index"],
            arrays=clip.get("fields", {}),
            numbers=clip["numbers"],
            frames=self._clips[part].manifest.clip.frames,
            scale=(resized[0] / stored[0], resized[1] / stored[1]),
            corner=corner,
            flip=flip,
            covers=self._sizes[part] is not None,
        )
        return {field.name: field.compute(cut) for field in self._fields}

    def _stored(self, clips: Sequence[Mapping[str, Any]], parts: np.ndarray) -> Batch:
        """The conditions, those of frames as long as the bucket."""
        batch = {}
        for name, first in self._entries[0].items():
            rows = min(self._bucket.frames, first.shape[0]) if name in PER_FRAME_KEYS else None
            shape = first.shape if rows is None else (rows, *first.shape[1:])
            whole = np.zeros((len(clips), *shape), first.batch_dtype)
            for i, (clip, part) in enumerate(zip(clips, parts)):
                stored = clip["conditions"][name]
                self._entries[part][name].write_into(whole[i : i + 1], stored if rows is None else stored[:rows])
            batch[name.removeprefix(VECTOR)] = whole
        return batch

    def _text(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        if self._tokenizer_fn is None:
            return {"caption": np.array(texts, object)}
        text = {key: np.asarray(value) for key, value in self._tokenizer_fn(list(texts)).items()}
        for key, value in text.items():
            if value.shape[:1] != (len(texts),):
                raise ValueError(f"tokenizer_fn: {key!r} has shape {list(value.shape)} for {len(texts)} captions")
        return text


def _stack(clips: Sequence[np.ndarray]) -> np.ndarray:
    """`[B, ...]`: all in the type of the first, or in float32 where sets store other types."""
    types = {clip.dtype for clip in clips}
    out = np.empty((len(clips), *clips[0].shape), types.pop() if len(types) == 1 else np.float32)
    for row, clip in zip(out, clips):
        row[...] = clip
    return out


def _same_shape(values: Sequence[np.ndarray], field: Field) -> np.ndarray:
    """`[B, ...]` of one field."""
    shapes = {value.shape for value in values}
    if len(shapes) > 1:
        some = ", ".join(str(list(shape)) for shape in sorted(shapes)[:3])
        raise RunError(f"field {field.name!r}: clips of one batch have {some}; they cannot be stacked")
    return np.stack(values)
