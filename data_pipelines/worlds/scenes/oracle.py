"""Reads transitions and defects of the world `scenes` off the pixels of a clip, real or generated.

Everything is told by what the world never draws by itself (see `pictures`): content is never black or white, never
flat, never without detail, and what a frame shows is found again in the next.

    bars         the rows and columns at the border that stay black
    writing      white or saturated pixels beside black ones, within the bars or without
    exposure     mean and clipped share of the picture; flashes and flicker: its mean from frame to frame
    blur         detail of a pixel's size relative to the contrast of the picture
    shots        frames 1, 2, 4, 8 and 16 apart are matched block by block (`matching`); where the correlation
                 breaks is a cut if it breaks between neighbours, else a dissolve; a fade loses its contrast in between
    still        what differs between frames, over 4 x 4 pixels, is noise

Shape legend: T frames, H height, W width.
"""

import dataclasses

import numpy as np
from scipy import ndimage

from data_pipelines.worlds.drawing.pictures import luminance
from data_pipelines.worlds.scenes import matching
from data_pipelines.worlds.scenes import world as scenes
from data_pipelines.worlds.scenes.labels import SceneLabels, ScenesConfig
from data_pipelines.worlds.world import right, wrong
from vdm_jax.media.figures import Figure

BLACK, WHITE = 14.0, 236.0
FOUND_AGAIN = 0.7  # correlation of a block that is found again
LINKED = {1: 0.2, 2: 0.2, 4: 0.2, 8: 0.16, 16: 0.1}  # share of the blocks of a shot that are, so many frames later
BESIDE_A_CUT = 0.4  # share on either side of a cut, where a dissolve has less
NEAR = 4  # frames between two breaks of one dissolve, at most
LEAST_BLOCKS = 10
BLANK = 0.4  # of the usual contrast: less is the middle of a fade, or a flash
LEAST_TEXT = 0.0015  # of the frame
DARK, CLIPPED, FLASH = 42.0, 0.3, 0.45
FLICKER = 0.1  # of the logarithm of the mean, between neighbours
SHARP, GRAIN = 0.2, 0.6  # detail of a pixel: relative to coarser, and that of the sensor, in levels
STILL = 1.6  # levels
PERSISTENT = 0.3  # of the frames
READ = (
    *("still", "slide", "freeze", "writing", "blur", "dark", "bright"),
    *("letterbox", "pillarbox", "flash", "flicker"),
)


@dataclasses.dataclass(frozen=True)
class Found:
    """A transition that was read: kind as in `labels.TRANSITIONS`, frames `start <= k < stop` (a cut: none)."""

    kind: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is to be seen in a clip.

    Attributes:
      content: (top, bottom, left, right) of the picture inside bars, in pixels.
      transitions: in order; None where the picture is too dark or blurred to tell.
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
    light = exposure(video, luma, picture)
    still = stillness(luma, picture, light)
    defects = set(light.defects)
    if (top, left) != (0, 0):
        defects.add("letterbox" if top else "pillarbox")
    if ((written.mean((1, 2)) > LEAST_TEXT).mean()) > PERSISTENT:
        defects.add("writing")
    page = bool(still[1:].mean() > 0.85) and is_page(video[:, top:bottom, left:right])
    if page:
        defects = defects - {"dark", "bright"} | {"slide"}
    elif "dark" not in defects and len(still) > 1:
        if still[1:].mean() > 0.9:
            defects.add("still")
        elif still.sum() >= 3:
            defects.add("freeze")
    if not page and "dark" not in defects and (sharpness(luma, picture) < SHARP).mean() > PERSISTENT:
        defects.add("blur")
    told = not defects & {"dark", "blur"}
    transitions = shots(luma, picture, light) if told else None
    return Reading(content, transitions, still, frozenset(defects))


def agree(reading: Reading, labels: SceneLabels) -> dict[str, bool]:
    """What of a clip's labels was read right; what the reading does not tell is left out.

    Cuts must be at their frame, and fades and dissolves overlap what they are.  Whether something stands still or is
    blurred is not asked of what is too dark to tell.
    """
    told = {"content": reading.content == labels.content}
    if reading.transitions is not None:
        told["transitions"] = len(reading.transitions) == len(labels.transitions) and all(
            f.kind == t.kind and (f.start == t.start if t.kind == "cut" else f.start < t.stop and t.start < f.stop)
            for f, t in zip(reading.transitions, labels.transitions)
        )
    for kind in READ:
        if not (labels.has("dark") and kind in ("still", "freeze", "blur")):
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


@dataclasses.dataclass(frozen=True)
class Light:
    """Brightness of the frames.

    Attributes:
      mean, contrast: float [T], mean of the picture, and the difference of its quartiles.
      flash: bool [T].
      blank: spans of frames with little contrast that are no flash.
      defects: those that are told by it.
    """

    mean: np.ndarray
    contrast: np.ndarray
    flash: np.ndarray
    blank: tuple[tuple[int, int], ...]
    defects: frozenset[str]


def exposure(video: np.ndarray, luma: np.ndarray, picture: np.ndarray) -> Light:
    """Reads under- and over-exposure, flashes, flicker and fades off the pixels `picture`, bool [T, H, W]."""
    masked = np.where(picture, luma, np.nan)
    masked[~picture.any((1, 2))] = 0
    low, high = np.nanquantile(masked, (0.1, 0.9), axis=(1, 2))
    mean, contrast = np.nanmean(masked, (1, 2)), high - low
    clipped = (picture & (video.max(-1) >= 250)).sum((1, 2)) / np.maximum(picture.sum((1, 2)), 1)
    flash = np.zeros(len(mean), bool)
    blanks = []
    usual = np.array([np.quantile(contrast[max(0, k - 12) : k + 13], 0.7) for k in range(len(contrast))])
    for start, stop in _runs(contrast < BLANK * usual):
        outer = [
            contrast[k] / max(float(contrast[max(0, k - 2) : k + 3].max()), 1e-3)
            for k in (start - 1, stop)
            if 0 <= k < len(mean)
        ]
        if stop - start <= 2 and mean[start:stop].min() > 180 and (not outer or np.mean(outer) > 0.8):
            flash[start:stop] = True
        else:
            blanks.append((start, stop))
    found = {"flash"} if flash.any() else set()
    if (mean < DARK).mean() > PERSISTENT:
        found.add("dark")
    if (clipped > CLIPPED).mean() > PERSISTENT:
        found.add("bright")
    steps = np.diff(np.log(np.maximum(mean, 1)))
    turns = (steps[1:] * steps[:-1] < 0) & (np.minimum(np.abs(steps[1:]), np.abs(steps[:-1])) > FLICKER)
    if len(turns) and turns.mean() > 0.8 * PERSISTENT:
        found.add("flicker")
    return Light(mean, contrast, flash, tuple(blanks), frozenset(found))


def stillness(luma: np.ndarray, picture: np.ndarray, light: Light) -> np.ndarray:
    """Frames that show what the one before showed, whatever their brightness: bool [T]."""
    still = np.zeros(len(luma), bool)
    for k in range(1, len(luma)):
        both = picture[k] & picture[k - 1]
        if both.sum() < 16:
            continue
        a, b = luma[k - 1][both], luma[k][both]
        gain = np.dot(a - a.mean(), b - b.mean()) / max(float(np.dot(a - a.mean(), a - a.mean())), 1e-3)
        off = np.where(both, luma[k] - b.mean() - gain * (luma[k - 1] - a.mean()), 0)
        cells = ndimage.uniform_filter(off, 3)
        still[k] = np.quantile(np.abs(cells[both]), 0.99) < STILL
    return still


def is_page(video: np.ndarray) -> bool:
    """Whether most of the clip is paper of one colour."""
    pixels = video[len(video) // 2].reshape(-1, 3).astype(np.int32)
    paper = (np.abs(pixels - np.median(pixels, 0)) <= 8).all(-1).mean()
    return bool(paper > 0.4 and np.ptp(pixels.sum(-1)) > 240)


def sharpness(luma: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Detail of the size of a pixel relative to that of some pixels, [T]; a median over the picture."""
    fine = np.abs(luma - ndimage.uniform_filter(luma, (0, 3, 3)))
    coarse = np.abs(ndimage.uniform_filter(luma, (0, 3, 3)) - ndimage.uniform_filter(luma, (0, 9, 9)))
    ratio = []
    for k in range(len(luma)):
        detail = max(float(np.median(fine[k][picture[k]])) - GRAIN, 0) if picture[k].any() else 0.0
        ratio.append(detail / max(float(np.median(coarse[k][picture[k]])), 1e-3) if picture[k].any() else 1.0)
    return np.array(ratio)


def shots(luma: np.ndarray, picture: np.ndarray, light: Light) -> tuple[Found, ...]:
    """Reads cuts, dissolves and fades."""
    found = []
    for start, stop in light.blank:
        low, high = start, stop
        limit = 0.85
        while low > 0 and light.contrast[low - 1] < limit * light.contrast[max(0, low - 3) : low].max():
            low -= 1
        while high < len(luma) and light.contrast[high] < limit * light.contrast[high : high + 3].max():
            high += 1
        found.append(Found("fade", low, high))
    kept = np.ones(len(luma), bool)
    kept[light.flash] = False
    for f in found:
        kept[f.start : f.stop] = False
    frames = np.flatnonzero(kept)
    again = links(matching.detail(luma[frames]), matching.reduced(picture[frames]) > 0.9)
    taken = np.zeros(len(luma) + 1, bool)
    for f in found:
        taken[max(0, f.start - 1) : f.stop + 1] = True
    for lag, least in LINKED.items():
        for k in np.argsort(again[lag], kind="stable"):
            if again[lag][k] >= least:
                break
            first, last = int(frames[k]), int(frames[k + lag])
            if taken[first + 1 : last + 1].any():
                continue
            taken[first + 1 : last + 1] = True
            beside = [again[lag][j] for j in (k - 1, k + 1) if 0 <= j < len(again[lag])]
            sharp = lag == 1 and min(beside, default=1.0) > BESIDE_A_CUT
            found.append(Found("cut", last, last) if sharp else Found("dissolve", first + 1, last))
    merged: list[Found] = []
    for f in sorted(found, key=lambda f: f.start):
        if merged and f.kind == merged[-1].kind == "dissolve" and f.start - merged[-1].stop <= NEAR:
            merged[-1] = Found("dissolve", merged[-1].start, max(f.stop, merged[-1].stop))
        else:
            merged.append(f)
    return tuple(merged)


def links(luma: np.ndarray, usable: np.ndarray) -> dict[int, np.ndarray]:
    """Lag -> share of the blocks of each frame that are found again so many frames later; 1 if that cannot be told."""
    shares, maps = {lag: np.ones(max(0, len(luma) - lag)) for lag in LINKED}, []
    for lag, share in shares.items():
        now = []
        for k in range(len(share)):
            start = np.eye(3) if lag == 1 else maps[k + lag // 2] @ maps[k]
            pair = usable[[k, k + lag]]
            matched = matching.match(luma[k], luma[k + lag], pair, start[:2])
            fitted, follow = matching.camera(matched)
            if follow > 0.3:
                start = np.vstack([fitted, (0, 0, 1)])
                if lag > 1:
                    matched = matching.match(luma[k], luma[k + lag], pair, start[:2])
            now.append(start)
            if len(matched.correlation) >= LEAST_BLOCKS:
                share[k] = (matched.correlation > FOUND_AGAIN).mean()
        maps = now
    return shares


def _runs(where: np.ndarray) -> list[tuple[int, int]]:
    """Spans of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], where, [False]]).astype(int)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2])]
