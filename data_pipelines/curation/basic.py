"""The basic curation path: a folder of footage in, a shard set out.

    find files -> decode at the target rate -> resize, crop, cut -> caption from NAME.txt -> split -> shards

One bad file never stops the rest: it gives no clips at all (also if it breaks off in its middle), and the manifest
lists it with its reason.  Nothing is kept of a run that fails.  The same folder and settings give the same shards.

Held-out clips never come from material that is trained on.  By `source`: whole videos are held out, drawn by a hash of
seed and name.  By `tail`, for one or a few long videos: the last part of each, and training clips that reach into it
are left out.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_pipelines.curation.cutting import cut_clips
from data_pipelines.shards.files import check_target, sha256
from data_pipelines.shards.manifest import ClipSpec, Dropped, Manifest
from data_pipelines.shards.schema import CODECS, ClipRecord, pack_pixels
from data_pipelines.shards.writer import ShardWriter, open_writer
from vdm_jax import config as configs
from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.media.video import VideoError, iter_frames, probe

VIDEO_SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv")
HOLD_OUT = ("auto", "source", "tail")
AUTO_SOURCES = 5  # from so many files on, `auto` holds out whole videos


@dataclasses.dataclass(frozen=True)
class CurateSettings:
    """What the clips shall be.

    Attributes:
      height, width: pixels.
      frames: frames per clip.
      fps: frames per second to resample to; 0 keeps every stored frame, whatever its time.
      stride: frames between the starts of two clips; 0 means `frames`, so that clips do not overlap.
      hold_out: how validation clips are chosen: `source`, `tail`, or `auto` (`source` from 5 files on).
      val_fraction: share of the videos (`source`) or of each video's clips (`tail`); 0 makes no split `val`.
      max_clips_per_source: evenly spaced clips are taken from a video that gives more; 0 takes all.
      codec: how clips are stored, see `shards.schema.CODECS`.
      crf: quality of `h264`, 0 (best) to 51.
      captions: `beside` reads NAME.txt next to NAME.mp4 ("" where there is none), `required` drops videos without,
        `none` ignores such files.
      seed: which videos are held out.
    """

    height: int = 64
    width: int = 64
    frames: int = 16
    fps: float = 8.0
    stride: int = 0
    hold_out: str = "auto"
    val_fraction: float = 0.1
    max_clips_per_source: int = 0
    codec: str = "h264"
    crf: int = 18
    captions: str = "beside"
    seed: int = 0

    def __post_init__(self):
        for name, least in (("height", 1), ("width", 1), ("frames", 1), ("stride", 0), ("max_clips_per_source", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not at least {least}")
        if not self.fps >= 0:
            raise ValueError(f"fps: {self.fps!r} is negative")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"val_fraction: {self.val_fraction!r} is not within [0, 1)")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf: {self.crf!r} is not within 0..51")
        words = (("hold_out", HOLD_OUT), ("codec", CODECS), ("captions", ("beside", "required", "none")))
        for name, allowed in words:
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: {did_you_mean(getattr(self, name), allowed)}")


Progress = Callable[[int, int, str], None]


def curate(
    videos: str | Path,
    out: str | Path,
    settings: CurateSettings,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
) -> Manifest:
    """Turns a folder of video files (subfolders included) into a shard set.

    Args:
      videos: the folder; files whose suffix is not of a video are left alone.
      out: directory to make.
      settings: what the clips shall be.
      progress: called with (files done, files, name) after each file.
      overwrite: replace a shard set that is at `out`.

    Returns:
      The manifest; `dropped` lists the files that gave nothing, `provenance["sources"]` the others.

    Raises:
      ValueError: no such folder, no video in it, or `out` exists.
      RunError: no file was usable, or too few for `hold_out`, or the disk fails; nothing is left behind.
    """
    videos = Path(videos)
    files = find_videos(videos)
    check_target(out, overwrite)
    settings = _resolve(settings, len(files))
    spec = ClipSpec(settings.frames, settings.height, settings.width, settings.codec)
    dropped: list[Dropped] = []
    sources: list[dict[str, Any]] = []
    with open_writer(out, spec, overwrite=overwrite) as writer:
        held_out = _held_out_count(settings, len(files))
        for done, path in enumerate(_in_order(files, videos, settings), 1):
            name = path.relative_to(videos).as_posix()
            try:
                clips = _clips(path, name, settings, hold_out=len(sources) < held_out)
                sources.append(_provenance(path, name, clips))
            except VideoError as error:
                dropped.append(Dropped(name, error.reason, str(error)))
            else:
                for clip in clips:
                    writer.add(clip)
            if progress is not None:
                progress(done, len(files), name)
        _check_result(videos, settings, writer, sources, dropped)
        provenance = {"pipeline": "curation/basic", "sources": sorted(sources, key=lambda s: s["name"])}
        dropped.sort(key=lambda d: d.file)
        return writer.finish(provenance, configs.to_dict(settings), dropped)


def find_videos(folder: Path) -> list[Path]:
    """All files of a folder and its subfolders that are named like videos, hidden ones excepted, by name.

    Raises:
      ValueError: no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise ValueError(f"videos: {folder} is not a folder")
    files = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in VIDEO_SUFFIXES]
    files = [p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    if not files:
        raise ValueError(f"videos: {folder} holds no video file ({' '.join(VIDEO_SUFFIXES)})")
    return files


def read_caption(video: Path, captions: str) -> str:
    """The caption of a video: the words of NAME.txt beside it, white space collapsed.

    Args:
      video: the video file.
      captions: as `CurateSettings.captions`.

    Raises:
      VideoError: it is required and missing or empty (`no_caption`), or is not UTF-8 text (`bad_caption`).
    """
    path = video.with_suffix(".txt")
    if captions == "none":
        return ""
    text = ""
    try:
        text = " ".join(path.read_bytes().decode("utf-8-sig").split()) if path.exists() else ""
    except UnicodeDecodeError as error:
        raise VideoError("bad_caption", f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise VideoError("bad_caption", f"{path}: {error.strerror}") from None
    if not text and captions == "required":
        raise VideoError("no_caption", f"{video}: has no caption in {path.name}")
    return text


def _resolve(settings: CurateSettings, files: int) -> CurateSettings:
    hold_out = settings.hold_out
    if hold_out == "auto":
        hold_out = "source" if files >= AUTO_SOURCES else "tail"
    return dataclasses.replace(settings, hold_out=hold_out, stride=settings.stride or settings.frames)


def _held_out_count(settings: CurateSettings, files: int) -> int:
    """Number of whole videos to hold out."""
    if settings.hold_out != "source" or not settings.val_fraction:
        return 0
    return max(1, round(settings.val_fraction * files))


def _in_order(files: list[Path], folder: Path, settings: CurateSettings) -> list[Path]:
    """By name; for `source` by a hash, so that the first usable ones are a random sample: those held out."""
    if settings.hold_out != "source":
        return files

    def draw(path: Path) -> bytes:
        return hashlib.sha256(f"{settings.seed}:{path.relative_to(folder).as_posix()}".encode()).digest()

    return sorted(files, key=draw)


def _records(path: Path, name: str, settings: CurateSettings) -> Iterator[tuple[ClipRecord, float]]:
    """The clips of one file and the times of their last pictures.

    Pixels are packed already: the caller holds all of them until the file is known to be sound.
    """
    caption = read_caption(path, settings.captions)
    rate = settings.fps or probe(path).fps
    if not rate:
        raise VideoError("no_rate", f"{path}: does not say its frame rate; set fps")
    timed = iter_frames(path, settings.fps or None, threads=0)
    empty = True
    for cut in cut_clips(timed, settings.frames, settings.stride, settings.height, settings.width):
        empty = False
        record = ClipRecord(
            video=pack_pixels(cut.pixels, settings.codec, rate, settings.crf),
            codec=settings.codec,
            caption=caption,
            fps=rate,
            frames=settings.frames,
            height=settings.height,
            width=settings.width,
            source=name,
            start=cut.start,
            split="train",
            index=0,
        )
        yield record, cut.end
    if empty:
        raise VideoError("too_short", f"{path}: shorter than one clip of {settings.frames} frames at {rate:g} fps")


def _clips(path: Path, name: str, settings: CurateSettings, hold_out: bool) -> list[ClipRecord]:
    """The clips of one file, thinned out, those that are held out (all of them if `hold_out`) marked."""
    clips = list(_records(path, name, settings))
    limit = settings.max_clips_per_source
    if limit and len(clips) > limit:
        clips = [clips[i * len(clips) // limit] for i in range(limit)]
    count = len(clips) if hold_out else 0
    if settings.hold_out == "tail" and settings.val_fraction and len(clips) > 1:
        count = max(1, round(settings.val_fraction * len(clips)))
    train, held_out = clips[: len(clips) - count], clips[len(clips) - count :]
    if held_out:
        border = held_out[0][0].start
        train = [(record, end) for record, end in train if end < border]
    return [record for record, _ in train] + [dataclasses.replace(record, split="val") for record, _ in held_out]


def _provenance(path: Path, name: str, records: list[ClipRecord]) -> dict[str, Any]:
    try:
        digest = sha256(path)
    except OSError as error:  # it went away, or its disk fails
        raise VideoError("unreadable", f"{path}: {error.strerror}") from None
    counts = {split: sum(r.split == split for r in records) for split in ("train", "val")}
    return {"name": name, "sha256": digest, "clips": counts, "captioned": bool(records[0].caption)}


def _check_result(
    videos: Path, settings: CurateSettings, writer: ShardWriter, sources: list[dict[str, Any]], dropped: list[Dropped]
) -> None:
    if not sources:
        listed = "; ".join(f"{d.file}: {d.reason}" for d in dropped[:3])
        more = f" and {len(dropped) - 3} more" if len(dropped) > 3 else ""
        raise RunError(f"{videos}: none of {len(dropped)} video files is usable ({listed}{more})")
    if not writer.counts.get("train"):
        hint = "; use hold_out='tail' or val_fraction=0" if settings.hold_out == "source" else ""
        raise RunError(f"{videos}: {len(sources)} usable video(s) leave no clip to train on{hint}")
