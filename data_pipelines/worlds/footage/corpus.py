"""A corpus of mixed files with exact labels: what raw footage looks like before anybody has looked at it.

The pictures are those of the world `scenes` (and some of `sprites`): shots joined by cuts and fades, with defects.
The files are of many containers, codecs, sizes (odd ones too), rates (1 to 120 pictures a second, also variable),
rotations, pixel formats and colour ranges, with and without sound; pictures are among them, near and exact duplicates,
broken files, and captions beside the videos, of which some are missing, empty or no UTF-8.

    OUT/000/000017.mp4  OUT/000/000017.txt  ...  OUT/labels.jsonl

File i is a function of (settings, i) alone.  `labels.jsonl` has one line for each: see `Label`.

Rates above 30 repeat pictures, as conversions do; below 8 there are no fades, which would last many seconds.
"""

import dataclasses
import io
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_pipelines.worlds.footage.files import KINDS, Kind, without_pictures, write_sound, write_video
from data_pipelines.worlds.scenes import world as scenes
from data_pipelines.worlds.scenes.labels import EDITS, ScenesConfig, caption
from data_pipelines.worlds.sprites import world as sprites
from data_pipelines.worlds.sprites.world import SpritesConfig
from vdm_jax.media.grid import upscale

RATES = tuple(
    Fraction(r) for r in (1, 5, 8, 10, 12, 15, Fraction(24000, 1001), 24, 25, Fraction(30000, 1001), 30, 48, 60, 120)
)
SIDES = (48, 56, 63, 64, 71, 72, 80, 96)  # the shorter one
ASPECTS = (1.0, 4 / 3, 16 / 9, 9 / 16)
BROKEN = ("empty", "truncated", "text", "audio_only", "no_pictures", "one_picture")
REASONS = {
    "empty": "empty",
    "truncated": "truncated",
    "text": "unreadable",
    "audio_only": "no_video",
    "no_pictures": "no_frames",
}
SHARES = (("broken", 0.06), ("image", 0.06), ("copy", 0.02), ("edit", 0.06), ("sprites", 0.04))  # the others: scenes
CAPTIONS = (("txt", 0.72), ("json", 0.1), ("missing", 0.1), ("empty", 0.03), ("not_utf8", 0.05))
FOLDER = 500  # files in one


@dataclasses.dataclass(frozen=True)
class FootageSettings:
    """What the corpus is like.

    Attributes:
      files: how many videos and pictures, captions not counted.
      seed: which ones.
      frames: fewest and most pictures drawn for a video, 8 to 128.
      defects: whether scenes have defects.
    """

    files: int = 2000
    seed: int = 0
    frames: tuple[int, int] = (24, 64)
    defects: bool = True

    def __post_init__(self):
        if self.files < 1:
            raise ValueError(f"files: {self.files!r} is not at least 1")
        if not 8 <= self.frames[0] <= self.frames[1] <= 128:
            raise ValueError(f"frames: {self.frames!r} is not two rising numbers within 8..128")


@dataclasses.dataclass(frozen=True)
class Label:
    """What is true of one file.  Times are seconds since its first picture.

    Attributes:
      name: path within the corpus.
      kind: `video`, `image`, or one of `BROKEN`.
      reason: what a probe must say of a broken file, "" of a sound one.
      container, codec, pixel_format: as the file was written; "" where they do not apply.
      height, width: as displayed.
      rotation: degrees counter-clockwise that display applies.
      fps: nominal pictures a second.
      variable_rate: whether the times of pictures are uneven.
      frames, duration: pictures in the file, and the seconds they are shown.
      sound: whether there is a stream of it.
      cuts: `{"kind": "hard" | "fade", "start", "end"}`; of a hard cut both are the first picture of the new shot.
      defects: `{"kind", "start", "end", "strength"}`, kinds of `scenes.labels.DEFECTS`.
      duplicate_of, edit: name of the file that this one repeats and what was done to it (of `scenes.labels.EDITS`, or
        `copy` for the same bytes); "" otherwise.
      caption, caption_state: what the caption beside it says, and which of `CAPTIONS` it is.
    """

    name: str
    kind: str = "video"
    reason: str = ""
    container: str = ""
    codec: str = ""
    pixel_format: str = ""
    height: int = 0
    width: int = 0
    rotation: int = 0
    fps: float = 0.0
    variable_rate: bool = False
    frames: int = 0
    duration: float = 0.0
    sound: bool = False
    cuts: tuple[dict[str, Any], ...] = ()
    defects: tuple[dict[str, Any], ...] = ()
    duplicate_of: str = ""
    edit: str = ""
    caption: str = ""
    caption_state: str = "missing"


def write_footage(
    out: Path, settings: FootageSettings, progress: Callable[[int, int, str], None] | None = None
) -> list[Label]:
    """Writes the corpus.

    Args:
      out: folder to make.
      settings: what it is like.
      progress: called with (files done, files, name) after each file.

    Raises:
      ValueError: `out` exists and is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out: {out} exists already; choose another place")
    labels = []
    for index in range(settings.files):
        data, label = footage(settings, index)
        path = out / label.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        _write_caption(path, label)
        labels.append(label)
        if progress is not None:
            progress(index + 1, settings.files, label.name)
    (out / "000" / "nobody.txt").write_text("a caption of a video that is not there\n")
    lines = (json.dumps(dataclasses.asdict(label), sort_keys=True) for label in labels)
    (out / "labels.jsonl").write_text("\n".join(lines) + "\n")
    return labels


def read_labels(folder: Path) -> list[Label]:
    """The labels of a corpus, in the order of its files."""
    rows = (json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines())
    return [Label(**row | {name: tuple(row[name]) for name in ("cuts", "defects")}) for row in rows]


def footage(settings: FootageSettings, index: int) -> tuple[bytes, Label]:
    """The bytes of file `index` and its label."""
    role = _role(settings, index)
    rng = np.random.default_rng([settings.seed, index, 2])
    if role == "copy":
        origin = _earlier(settings, index)
        data, label = footage(settings, origin)
        name = _name(index, Path(label.name).suffix)
        return data, dataclasses.replace(label, name=name, duplicate_of=label.name, edit="copy")
    if role == "broken":
        return _broken(settings, index, rng)
    if role == "image":
        return _image(settings, index, rng)
    return _video(settings, index, role, rng)


def _role(settings: FootageSettings, index: int) -> str:
    draw = np.random.default_rng([settings.seed, index, 1]).uniform()
    for role, share in SHARES:
        draw -= share
        if draw < 0:
            return "scenes" if role in ("copy", "edit") and _earlier(settings, index) < 0 else role
    return "scenes"


def _earlier(settings: FootageSettings, index: int) -> int:
    """A video that this one may repeat, one of the forty before it that repeats none itself; -1 if there is none."""
    rng = np.random.default_rng([settings.seed, index, 3])
    plain = [j for j in range(max(0, index - 40), index) if _plain_role(settings, j) == "scenes"]
    return int(rng.choice(plain)) if plain else -1


def _plain_role(settings: FootageSettings, index: int) -> str:
    draw = np.random.default_rng([settings.seed, index, 1]).uniform() - sum(share for _, share in SHARES)
    return "scenes" if draw >= 0 else "other"


def _name(index: int, suffix: str) -> str:
    return f"{index // FOLDER:03d}/{index:06d}{suffix}"


def _kind(rng: np.random.Generator) -> Kind:
    shares = np.array([kind.share for kind in KINDS])
    return KINDS[rng.choice(len(KINDS), p=shares / shares.sum())]


def _video(settings: FootageSettings, index: int, role: str, rng: np.random.Generator) -> tuple[bytes, Label]:
    kind = _kind(rng)
    rotation = int(rng.choice((0, 0, 90, 180, 270))) if kind.rotation else 0
    origin = _earlier(settings, index) if role == "edit" else index
    pixels, base, label = _drawn(settings, origin, role)
    if role == "edit":
        edit = EDITS[rng.integers(len(EDITS))]
        if edit == "crop":
            edit = "reencode"  # a crop would move bars and writing
        pixels = scenes.edited(pixels, edit, rng)
        label = dataclasses.replace(label, duplicate_of=_name_of(settings, origin), edit=edit)
    if not kind.odd:
        pixels = pixels[:, : pixels.shape[1] // 2 * 2, : pixels.shape[2] // 2 * 2]
    if min(pixels.shape[1:3]) < kind.least:
        pixels = upscale(pixels, 2)
    base = min(base, Fraction(kind.fastest))
    repeats = -(-base.numerator // (30 * base.denominator))  # a picture of a fast video is there several times
    steps = np.repeat(1, len(pixels) * repeats)
    variable = kind.variable and repeats == 1 and base > 5 and bool(rng.uniform() < 0.2)
    if variable:
        steps = rng.choice((1, 1, 1, 2, 3), len(steps))
    ticks = np.concatenate([[0], np.cumsum(steps)])
    sound = bool(kind.sound and rng.uniform() < 0.4)
    pixel_format = str(rng.choice(kind.pixel_formats))
    keyframes = int(rng.choice((6, 12, 24, 48)))
    shown = [frame for frame in pixels for _ in range(repeats)]
    how = {"pixel_format": pixel_format, "rotation": rotation, "keyframes": keyframes, "sound": sound}
    data = write_video(kind, shown, ticks[:-1].tolist(), base, **how)
    times = ticks[::repeats] / float(base)
    return data, dataclasses.replace(
        _timed(label, times),
        name=_name(index, kind.suffix),
        container=kind.container,
        codec=kind.codec,
        pixel_format=pixel_format,
        height=pixels.shape[1],
        width=pixels.shape[2],
        rotation=rotation,
        fps=round(float(base), 4),
        variable_rate=bool(len(set(steps[:-1].tolist())) > 1),
        frames=len(shown),
        sound=sound,
        caption_state=_state(rng),
    )


def _drawn(settings: FootageSettings, index: int, role: str) -> tuple[np.ndarray, Fraction, Label]:
    """The pictures of video `index`, its rate, and what is known of them, with frames instead of seconds."""
    rng = np.random.default_rng([settings.seed, index, 4])
    side, aspect = int(rng.choice(SIDES)), float(rng.choice(ASPECTS))
    long = min(128, round(side * max(aspect, 1 / aspect)))
    height, width = (side, long) if aspect >= 1 else (long, side)
    frames = int(rng.integers(settings.frames[0], settings.frames[1] + 1))
    rate = RATES[rng.integers(len(RATES))]
    if role == "sprites":
        config = SpritesConfig(height=height, width=width, frames=frames, objects=2)
        example = sprites.clip(config, index, settings.seed)
        return example.video, rate, Label("", caption=example.caption)
    slow = {"transitions": ("cut",)} if rate < 8 else {}
    plain = {} if settings.defects else {"defects": ()}
    config = ScenesConfig(height=height, width=width, frames=frames, shots=3, duplicates=0.0, **slow, **plain)
    pixels, labels = scenes.render(config, index, settings.seed)
    cuts = [
        {"kind": "hard" if t.kind == "cut" else "fade", "start": t.start, "end": t.stop} for t in labels.transitions
    ]
    defects = [{"kind": d.kind, "start": d.start, "end": d.stop, "strength": d.strength} for d in labels.defects]
    return pixels, rate, Label("", cuts=tuple(cuts), defects=tuple(defects), caption=caption(labels))


def _timed(label: Label, times: np.ndarray) -> Label:
    """Frames become seconds; `times` has one more than there are drawn pictures, the end."""

    def seconds(parts: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        ends = [{name: round(float(times[part[name]]), 3) for name in ("start", "end")} for part in parts]
        return tuple(part | end for part, end in zip(parts, ends))

    duration = round(float(times[-1]), 3)
    return dataclasses.replace(label, cuts=seconds(label.cuts), defects=seconds(label.defects), duration=duration)


def _name_of(settings: FootageSettings, index: int) -> str:
    """Of a video that repeats none: only its container has to be drawn."""
    return _name(index, _kind(np.random.default_rng([settings.seed, index, 2])).suffix)


def _image(settings: FootageSettings, index: int, rng: np.random.Generator) -> tuple[bytes, Label]:
    pixels, _, label = _drawn(dataclasses.replace(settings, defects=False), index, "scenes")
    suffix, form = ((".png", "PNG"), (".jpg", "JPEG"), (".webp", "WEBP"))[rng.integers(3)]
    out = io.BytesIO()
    Image.fromarray(pixels[0]).save(out, form)
    return out.getvalue(), Label(
        _name(index, suffix),
        "image",
        height=pixels.shape[1],
        width=pixels.shape[2],
        frames=1,
        caption=label.caption,
        caption_state=_state(rng),
    )


def _broken(settings: FootageSettings, index: int, rng: np.random.Generator) -> tuple[bytes, Label]:
    kind = BROKEN[rng.integers(len(BROKEN))]
    pictures = _drawn(settings, index, "scenes")[0][:8, :64, :64]
    pictures = pictures[:, : pictures.shape[1] // 2 * 2, : pictures.shape[2] // 2 * 2]
    if kind == "one_picture":
        pictures = pictures[:1]
    whole = write_video(KINDS[0], list(pictures), list(range(len(pictures))), Fraction(8), pixel_format="yuv420p")
    data = {
        "empty": b"",
        "truncated": whole[: int(len(whole) * rng.uniform(0.3, 0.9))],
        "text": b"this is not a video\n" * 20,
        "audio_only": write_sound() if kind == "audio_only" else b"",
        "no_pictures": without_pictures(whole),
        "one_picture": whole,
    }[kind]
    label = Label(_name(index, ".mp4"), kind, REASONS.get(kind, ""), caption="a file", caption_state="txt")
    if kind == "one_picture":
        label = dataclasses.replace(label, frames=1, height=pictures.shape[1], width=pictures.shape[2])
    return data, label


def _state(rng: np.random.Generator) -> str:
    states, shares = zip(*CAPTIONS)
    return str(rng.choice(states, p=np.array(shares) / sum(shares)))


def _write_caption(path: Path, label: Label) -> None:
    match label.caption_state:
        case "txt":
            path.with_suffix(".txt").write_text(f"{label.caption}\n", encoding="utf-8")
        case "json":
            said = {"captions": [[label.caption, 0.75], [f"a film: {label.caption}", 0.25]]}
            path.with_suffix(".json").write_text(json.dumps(said), encoding="utf-8")
        case "empty":
            path.with_suffix(".txt").write_bytes(b"\n")
        case "not_utf8":
            path.with_suffix(".txt").write_bytes(f"caf\xe9: {label.caption}\n".encode("latin-1"))
