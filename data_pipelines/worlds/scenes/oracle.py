"""Reads transitions and defects of the world `scenes` off the pixels of a clip, real or generated.

Everything is told by what the world never draws by itself (see `pictures`): content is never black or white, never
flat, never without detail, and what a frame shows is found again in the next.

    bars         the rows and columns at the border that stay black
    writing      white or saturated pixels beside black ones, within the bars or without
    exposure     mean and clipped share of the picture; flicker: its mean from frame to frame
    blur         detail of a pixel's size relative to the contrast of the picture
    shots        blocks that are found again in later frames, and blank ones (`joins`)
    still        what differs between frames, over 3 x 3 pixels, is as little as noise leaves (`light`)

Shape legend: T frames, H height, W width.
"""

import dataclasses

import numpy as np
from scipy import ndimage

from data_pipelines.worlds.drawing.pictures import luminance
from data_pipelines.worlds.scenes import world as scenes
from data_pipelines.worlds.scenes.joins import Found, shots
from data_pipelines.worlds.scenes.labels import SceneLabels, ScenesConfig
from data_pipelines.worlds.scenes.light import (
    LEAST_SEEN,
    PERSISTENT,
    SHARP,
    exposure,
    freezes,
    sharpness,
    stands,
    stillness,
)
from data_pipelines.worlds.world import right, wrong
from vdm_jax.media.figures import Figure

BLACK, WHITE = 14.0, 236.0
LEAST_TEXT = 0.0015  # of the frame
MARGIN = 13  # pixels: letters are within half of this of what is surely writing
NOISIER = 1.5  # deviation of a channel's noise, of that of the luminance
SATURATED = 248  # levels: differences above them are lost
READ = (
    *("still", "slide", "freeze", "writing", "blur", "dark", "bright"),
    *("letterbox", "pillarbox", "flash", "flicker"),
)


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is to be seen in a clip.

    Attributes:
      content: (top, bottom, left, right) of the picture inside bars, in pixels.
      transitions: in order; None where too little of the picture is seen, or it is too dark or blurred, to tell.
      still: bool [T], the frame shows what the one before showed.
      defects: those of `labels.DEFECTS` that are there, but for the watermark; "writing" is a subtitle or title.
    """

    content: tuple[int, int, int, int]
    transitions: tuple[Found, ...] | None
    still: np.ndarray
    defects: frozenset[str]


def read(video: np.ndarray) -> Reading:
    """Reads a clip, uint8 [T, H, W, 3]; about 0.3 s for 24 frames of 64x64.

    Raises:
      ValueError: another shape or dtype.
    """
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
        raise ValueError(f"video: expected uint8 [T, H, W, 3], got {video.dtype} {list(video.shape)}")
    content = content_box(video)
    written = writing(video, content)
    top, bottom, left, right = content
    inner = np.zeros(video.shape[1:3], bool)
    inner[top:bottom, left:right] = True
    luma = luminance(video)
    picture = inner & ~ndimage.maximum_filter(written, (1, 5, 5))
    clear = _clear(inner, written, picture)
    light = exposure(video, luma, clear)
    told = np.where(rewritten(written)[:, None, None], clear, picture)  # letters that are half found would differ
    unsaturated = told[..., None] & (video < SATURATED)
    lit = unsaturated.all(-1)
    channels = [(video[..., c] / np.float32(NOISIER), unsaturated[..., c]) for c in range(3)]
    still, sharp = stillness(luma, lit, channels), sharpness(luma, lit)
    defects = set(light.defects)
    if (top, left) != (0, 0):
        defects.add("letterbox" if top else "pillarbox")
    if ((written.mean((1, 2)) > LEAST_TEXT).mean()) > PERSISTENT:
        defects.add("writing")
    page = bool(still[1:].mean() > 0.85) and is_page(video[:, top:bottom, left:right])
    if page:
        defects = defects - {"dark", "bright"} | {"slide"}
    elif "dark" not in defects and len(still) > 1:
        if stands(still, sharp):
            defects.add("still")
        elif freezes(still, sharp):
            defects.add("freeze")
    if not page and "dark" not in defects and (sharp < SHARP).mean() > PERSISTENT:
        defects.add("blur")
    transitions = None if defects & {"dark", "blur"} else shots(video, luma, picture, light)
    return Reading(content, transitions, still, frozenset(defects))


def agree(reading: Reading, labels: SceneLabels) -> dict[str, bool]:
    """What of a clip's labels was read right; what the reading does not tell is left out.

    Cuts must be at their frame, and fades and dissolves overlap what they are.  Whether something stands still, is a
    page or is blurred is not asked of what is too dark to tell.
    """
    told = {"content": reading.content == labels.content}
    if reading.transitions is not None:
        told["transitions"] = len(reading.transitions) == len(labels.transitions) and all(
            f.kind == t.kind and (f.start == t.start if t.kind == "cut" else f.start < t.stop and t.start < f.stop)
            for f, t in zip(reading.transitions, labels.transitions)
        )
    for kind in READ:
        if not (labels.has("dark") and kind in ("still", "slide", "freeze", "blur")):
            told[kind] = (kind in reading.defects) == _labelled(labels, kind)
    return told


def check(config: ScenesConfig, clips: int = 256, seed: int = 0) -> list[Figure]:
    """Reads clips, which must agree with their labels, and corrupted ones, which must not.

    `found` is the share of the labelled defects that were read.  Corruptions: frames in a random order (of clips with
    transitions), the labels of the next clip where they differ, noise (of clips with defects).

    Raises:
      ValueError: frames or sides too small for the oracle, which needs 16 frames and 48 pixels.
    """
    for name, value, least in (
        ("frames", config.frames, 16),
        ("height", config.height, 48),
        ("width", config.width, 48),
    ):
        if value < least:
            raise ValueError(f"{name}: {value}; the oracle of scenes needs at least {least}")
    plain = dataclasses.replace(config, duplicates=0.0)  # their edits are corruptions
    made = [scenes.render(plain, i, seed) for i in range(clips)]
    labels = [label for _, label in made]
    readings = [read(video) for video, _ in made]
    verdicts: dict[str, list[bool]] = {"content": [], "transitions": [], **{kind: [] for kind in READ}, "found": []}
    for reading, label in zip(readings, labels):
        told = agree(reading, label)
        for name, verdict in told.items():
            verdicts[name].append(verdict)
        verdicts["found"] += [told[kind] for kind in READ if _labelled(label, kind) and kind in told]
    rng = np.random.default_rng([seed, 0xC0DE])
    shuffled = [(rng.permutation(video), label) for video, label in made if len(label.transitions) > 0][: clips // 4]
    noise = [label for label in labels if any(_labelled(label, kind) for kind in READ)][: clips // 4]
    noisy = rng.integers(0, 256, made[0][0].shape, np.uint8)
    other = [all(agree(r, b).values()) for r, a, b in zip(readings, labels, labels[1:]) if _differ(a, b)]
    return [
        *(right(name, values) for name, values in verdicts.items() if values),
        wrong("shuffled", [agree(read(video), label).get("transitions", False) for video, label in shuffled]),
        wrong("other_labels", other),
        wrong("noise", [all(agree(read(noisy), label).values()) for label in noise]),
    ]


def _labelled(labels: SceneLabels, kind: str) -> bool:
    return labels.has("subtitle") or labels.has("title") if kind == "writing" else labels.has(kind)


def _differ(a: SceneLabels, b: SceneLabels) -> bool:
    """Whether two clips differ in something that is read."""
    kinds = [tuple(_labelled(labels, kind) for kind in READ) for labels in (a, b)]
    return kinds[0] != kinds[1] or a.content != b.content or a.transitions != b.transitions


def content_box(video: np.ndarray) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of what is not black bars, in pixels, half open.

    Bars are as wide on both sides; the upper and the left one are read where no writing is.
    """
    height, width = video.shape[1:3]
    peak = video.max((0, 3)).astype(np.float32)  # [H, W]
    rows = peak.max(1) < BLACK
    columns = np.quantile(peak[: max(2, round(0.15 * height))], 0.9, axis=0) < BLACK
    top, left = (int(black.argmin()) if not black.all() else 0 for black in (rows, columns))
    if top and np.quantile(peak[height - top :], 0.05) >= BLACK:
        top = 0
    if left and np.quantile(peak[:, width - left :], 0.2) >= BLACK:
        left = 0
    darkest, brightest = np.quantile(peak[top : height - top, left : width - left], (0.02, 0.9))
    if darkest < BLACK and brightest < 3 * BLACK:
        return 0, height, 0, width  # all is so dark that bars cannot be told
    return top, height - top, left, width - left


def writing(video: np.ndarray, content: tuple[int, int, int, int]) -> np.ndarray:
    """Pixels of letters with an outline: bool [T, H, W]."""
    high, low = video.max(-1) >= WHITE, video.max(-1) <= 10
    top, bottom, left, right = content
    edge = np.zeros(video.shape[1:3], bool)  # where bars meet a bright picture
    if top:
        edge[top - 3 : top + 3] = edge[bottom - 3 : bottom + 3] = True
    if left:
        edge[:, left - 3 : left + 3] = edge[:, right - 3 : right + 3] = True
    high &= ~edge
    near = ndimage.maximum_filter(low, (1, 5, 5)), ndimage.maximum_filter(high, (1, 5, 5))
    return (high & near[0]) | (low & near[1] & ~edge)


def rewritten(written: np.ndarray) -> np.ndarray:
    """Frames in which writing comes, goes or says something else, of what `writing` returns: bool [T]."""
    same, either = (both.sum((1, 2)) for both in (written[1:] & written[:-1], written[1:] | written[:-1]))
    return np.concatenate([[False], same < 0.5 * either])


def _clear(inner: np.ndarray, written: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """What of the picture is well beside writing, bool [T, H, W]: thin outlines and thick strokes are not all found.

    A frame that writing fills keeps what of `picture` there is.
    """
    clear = inner & ~ndimage.maximum_filter(written, (1, MARGIN, MARGIN))
    enough = clear.mean((1, 2)) > LEAST_SEEN
    return np.where(enough[:, None, None], clear, picture)


def is_page(video: np.ndarray) -> bool:
    """Whether most of the clip is paper of one colour, and the rest is not; looks at the brightest frame."""
    pixels = video[video.mean((1, 2, 3)).argmax()].reshape(-1, 3).astype(np.int32)
    paper = (np.abs(pixels - np.median(pixels, 0)) <= 8).all(-1).mean()
    return bool(paper > 0.4 and np.ptp(pixels.sum(-1)) > 240)
