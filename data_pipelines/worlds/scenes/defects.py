"""What goes wrong in the clips of the world `scenes`: defocus, exposure, flashes, bars, writing and watermarks.

Each defect is a function of (canvas, span, random stream): it draws into the canvas and enters its labels.  They are
applied in the order of `ORDER`, as a camera, a cutter and a broadcaster would: light and lens first, bars and writing
last, so that writing may lie on bars.

Shape legend: T frames, H height, W width.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from data_pipelines.worlds.scenes.labels import Defect, ScenesConfig

BLUR, LEAST_BLUR = (0.022, 0.05), 1.1  # standard deviation: of the side, and pixels
DARK, BRIGHT = (0.06, 0.2), (1.9, 2.6)
LOST = 0.5  # of a frame's values, that over-exposure clips at most: what is white shows nothing; a bright frame more
FLASH, FLICKER = (0.7, 0.95), (0.15, 0.3)
BAR = (0.08, 0.2)  # each, of the frame
SUBTITLE, TITLE, SLIDE = (0.09, 0.15), (0.16, 0.28), (0.08, 0.14)  # height of a line
LEAST_LINE = 5  # pixels
MARK, MARK_SIZE = (0.4, 0.8), (0.12, 0.2)  # opacity, and extent
HIDDEN = ("blur", "dark", "bright", "flicker")  # by transitions
SHOWN = 0.15  # of the clip: of those so much at least is away from transitions
WHOLE = ("letterbox", "pillarbox", "watermark", "still", "slide")  # these last for the whole clip
TEXT = (
    "the of and to a in is it you that he was for on are with as I his they be at one have this from or had by hot "
    "word but what some we can out other were all there when up use your how said an each she"
)
WORDS = TEXT.split()


@dataclasses.dataclass
class Canvas:
    """A clip while it is drawn: its pixels, float32 [T, H, W, 3] of 0 to 255, and the labels that defects set.

    `calm`, bool [T], are the frames away from transitions, where a flash can be told from a fade, and where what is
    wrong with light and lens shows; at least one.  `cover`, uint8 [T, H, W], has a number for each bar, page or line
    where it hides the picture, and 0 elsewhere.
    """

    config: ScenesConfig
    pixels: np.ndarray
    calm: np.ndarray
    blur: np.ndarray
    exposure: np.ndarray
    text: np.ndarray
    mark: np.ndarray
    content: tuple[int, int, int, int]
    cover: np.ndarray

    @classmethod
    def of(cls, config: ScenesConfig, pixels: np.ndarray, calm: np.ndarray) -> "Canvas":
        """A canvas without defects."""
        zeros = np.zeros((3, config.frames), np.float32)
        whole, ones = (0, config.height, 0, config.width), np.ones(config.frames, np.float32)
        cover = np.zeros(pixels.shape[:3], np.uint8)
        return cls(config, pixels, calm, zeros[0], ones, zeros[1], zeros[2], whole, cover)

    def hide(self, start: int, stop: int, where: np.ndarray) -> None:
        """Something new covers the pixels `where`, bool [H, W], from frame `start` to before `stop`."""
        self.cover[start:stop, where] = self.cover.max() + 1


def apply(canvas: Canvas, kinds: tuple[str, ...], rng: np.random.Generator) -> tuple[Defect, ...]:
    """Draws defects into a canvas.

    Args:
      canvas: is drawn on.
      kinds: of `DEFECTS`; `still`, `slide` and `freeze` belong to the shots and are left out here.
      rng: decides where, when and how much.

    Returns:
      the defects in the order in which they were drawn.
    """
    found = []
    for kind, draw in ORDER.items():
        if kind in kinds:
            start, stop = _span(rng, kind, canvas.calm)
            found.append(Defect(kind, start, stop, round(float(draw(canvas, start, stop, rng)), 6)))
    return tuple(found)


def slide(rng: np.random.Generator, config: ScenesConfig) -> tuple[np.ndarray, float, float]:
    """A page of writing: uint8 [H, W, 3], the height of a line and the share that the lines' boxes cover."""
    paper = tuple(int(v) for v in rng.integers(150, 226, 3))
    ink = tuple(int(v) for v in rng.integers(10, 60, 3))
    if rng.uniform() < 0.5:
        paper, ink = ink, paper
    page = Image.new("RGB", (config.width, config.height), paper)
    height = max(LEAST_LINE, round(config.height * rng.uniform(*SLIDE)))
    draw, font, covered = ImageDraw.Draw(page), _font(height), 0
    for top in range(round(0.08 * config.height), round(0.92 * config.height) - height, round(1.7 * height)):
        line = _line(rng, font, config.width * rng.uniform(0.5, 0.9))
        draw.text((0.06 * config.width, top), line, ink, font, anchor="lt")
        covered += height * font.getlength(line)
    return np.asarray(page), height / config.side, min(1.0, covered / (config.height * config.width))


def _span(rng: np.random.Generator, kind: str, calm: np.ndarray) -> tuple[int, int]:
    """Frames of a defect: half of the time the whole clip, else at least 40 % of it; a flash one or two.

    It is the whole clip, too, if most of those 40 % are in transitions.
    """
    frames = len(calm)
    if kind == "flash":
        start = int(rng.choice(np.flatnonzero(calm)))
        return start, start + (2 if calm[start : start + 2].sum() == 2 and rng.uniform() < 0.5 else 1)
    if kind in WHOLE or rng.uniform() < 0.5:
        return 0, frames
    length = max(1, int(np.ceil(frames * rng.uniform(0.4, 0.9))))
    start = int(rng.integers(frames - length + 1))
    hidden = kind in HIDDEN and calm[start : start + length].sum() < SHOWN * frames
    return (0, frames) if hidden else (start, start + length)


def _blur(canvas: Canvas, start: int, stop: int, rng: np.random.Generator) -> float:
    sigma = max(LEAST_BLUR, canvas.config.side * rng.uniform(*BLUR))
    blurred = ImageFilter.GaussianBlur(sigma)
    for k in range(start, stop):
        frame = Image.fromarray((canvas.pixels[k] + 0.5).astype(np.uint8))
        canvas.pixels[k] = np.asarray(frame.filter(blurred))
    canvas.blur[start:stop] = sigma / canvas.config.side
    return sigma / canvas.config.side


def _dark(canvas: Canvas, start: int, stop: int, rng: np.random.Generator) -> float:
    return _exposed(canvas, start, stop, rng.uniform(*DARK))


def _bright(canvas: Canvas, start: int, stop: int, rng: np.random.Generator) -> float:
    calm = canvas.pixels[canvas.calm]  # of every shot, whichever of them the span has
    high = float(np.quantile(calm, 1 - LOST, axis=(1, 2, 3)).max(initial=1.0))
    return _exposed(canvas, start, stop, rng.uniform(BRIGHT[0], np.clip(255 / high, *BRIGHT)))


def _exposed(canvas: Canvas, start: int, stop: int, factor: float) -> float:
    canvas.pixels[start:stop] = np.minimum(canvas.pixels[start:stop] * factor, 255)
    canvas.exposure[start:stop] *= factor
    return factor


def _flash(canvas: Canvas, start: int, stop: int, rng: np.random.Generator) -> float:
    white = rng.uniform(*FLASH)
    canvas.pixels[start:stop] += white * (255 - canvas.pixels[start:stop])
    return white


def _flicker(canvas: Canvas, start: int, stop: int, rng: np.random.Generator) -> float:
    most = rng.uniform(*FLICKER)
    signs = np.where(np.arange(stop - start) % 2, 1, -1) * rng.uniform(0.6, 1, stop - start)
    canvas.pixels[start:stop] = np.minimum(canvas.pixels[start:stop] * (1 + most * signs)[:, None, None, None], 255)
    return most


def _bars(canvas: Canvas, start: int, stop: int, rng: np.random.Generator, axis: int) -> float:
    extent = canvas.pixels.shape[axis]
    bar = max(2, round(extent * rng.uniform(*BAR)))
    pixels = np.moveaxis(canvas.pixels, axis, 0)
    pixels[:bar] = pixels[extent - bar :] = rng.uniform(0, 5)
    hidden = np.zeros(canvas.pixels.shape[1:3], bool)
    np.moveaxis(hidden, axis - 1, 0)[np.r_[:bar, extent - bar : extent]] = True
    canvas.hide(start, stop, hidden)
    top, bottom, left, right = canvas.content
    canvas.content = (bar, extent - bar, left, right) if axis == 1 else (top, bottom, bar, extent - bar)
    return 2 * bar / extent


def _subtitle(canvas: Canvas, start: int, stop: int, rng: np.random.Generator) -> float:
    height = max(LEAST_LINE, round(canvas.config.height * rng.uniform(*SUBTITLE)))
    lines = int(rng.integers(1, 3))
    top = canvas.config.height - round(canvas.config.height * rng.uniform(0.02, 0.06)) - lines * (height + 2)
    colour = (255, 255, 255) if rng.uniform() < 0.7 else (255, 235, 60)
    changes = [start, *sorted(rng.integers(start + 1, stop, 1)), stop] if stop - start > 12 else [start, stop]
    for first, last in itertools.pairwise(changes):
        _write(canvas, first, last, rng, height, top, lines, colour)
    return height / canvas.config.side


def _title(canvas: Canvas, start: int, stop: int, rng: np.random.Generator) -> float:
    height = max(LEAST_LINE + 1, round(canvas.config.height * rng.uniform(*TITLE)))
    top = round(canvas.config.height * rng.uniform(0.2, 0.5))
    colour = tuple(int(v) for v in rng.choice(((255, 255, 255), (250, 60, 40), (255, 220, 0), (80, 255, 120))))
    _write(canvas, start, stop, rng, height, top, int(rng.integers(1, 3)), colour)
    return height / canvas.config.side


def _write(
    canvas: Canvas,
    start: int,
    stop: int,
    rng: np.random.Generator,
    height: int,
    top: int,
    lines: int,
    colour: tuple[int, ...],
) -> None:
    """Centred lines with a dark outline, the same in all frames of the span."""
    config, font = canvas.config, _font(height)
    layer = Image.new("RGBA", (config.width, config.height))
    draw, covered = ImageDraw.Draw(layer), np.zeros((config.height, config.width), bool)
    for k in range(lines):
        line = _line(rng, font, config.width * rng.uniform(0.6, 0.94))
        place = (config.width / 2, top + k * (height + 2) + height / 2)
        outline = max(1, round(height / 12))
        draw.text(place, line, (*colour, 255), font, anchor="mm", stroke_width=outline, stroke_fill=(0, 0, 0, 255))
        left, upper, right, lower = draw.textbbox(place, line, font, anchor="mm", stroke_width=outline)
        covered[max(0, int(upper)) : int(np.ceil(lower)), max(0, int(left)) : int(np.ceil(right))] = True
    _overlay(canvas.pixels[start:stop], np.asarray(layer, np.float32), 1.0)
    canvas.hide(start, stop, np.asarray(layer)[..., 3] > 127)
    canvas.text[start:stop] = np.maximum(canvas.text[start:stop], covered.mean())


def _watermark(canvas: Canvas, start: int, stop: int, rng: np.random.Generator) -> float:
    config, opacity = canvas.config, rng.uniform(*MARK)
    extent = max(6, round(config.side * rng.uniform(*MARK_SIZE)))
    inset = round(0.04 * config.side)
    top, bottom, left, right = canvas.content
    y = top + inset if rng.uniform() < 0.5 else bottom - inset - extent
    x = left + inset if rng.uniform() < 0.5 else right - inset - extent
    layer = Image.new("RGBA", (4 * config.width, 4 * config.height))
    draw, stroke = ImageDraw.Draw(layer), max(4, round(0.6 * extent))
    box = (4 * x, 4 * y, 4 * (x + extent) - 1, 4 * (y + extent) - 1)
    white, (a, b, c, d) = (255, 255, 255, 255), box
    match int(rng.integers(4)):
        case 0:
            draw.ellipse(box, outline=white, width=stroke)
            draw.polygon(((a + c) / 2, b + stroke, c - stroke, (b + d) / 2, a + stroke, (b + d) / 2), white)
        case 1:
            draw.rectangle(box, outline=white, width=stroke)
            draw.line((a, d, c, b), white, stroke)
        case 2:
            draw.polygon(((a + c) / 2, b, c, d, a, d), outline=white, width=stroke)
        case 3:
            draw.text(((a + c) / 2, (b + d) / 2), "TV", white, _font(4 * extent), anchor="mm", stroke_width=2)
    small = layer.reduce(4)
    _overlay(canvas.pixels[start:stop], np.asarray(small, np.float32), opacity)
    rows, columns = (np.flatnonzero(np.asarray(small)[..., 3].any(axis)) for axis in (1, 0))
    area = (rows[-1] + 1 - rows[0]) * (columns[-1] + 1 - columns[0])
    canvas.mark[start:stop] = area / (config.height * config.width)
    return opacity


def _overlay(pixels: np.ndarray, layer: np.ndarray, opacity: float) -> None:
    """Puts RGBA [H, W, 4] over frames [T, H, W, 3], in place."""
    alpha = opacity * layer[..., 3:] / 255
    pixels += alpha * (layer[..., :3] - pixels)


def _line(rng: np.random.Generator, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Random words that fill about `width` pixels; at least one."""
    words = [WORDS[rng.integers(len(WORDS))]]
    while font.getlength(" ".join([*words, "word"])) < width:
        words.append(WORDS[rng.integers(len(WORDS))])
    return " ".join(words).capitalize()


@functools.lru_cache(maxsize=64)
def _font(height: int) -> ImageFont.FreeTypeFont:
    """Letters so large that a line is `height` high.  DejaVu Sans Bold comes with matplotlib."""
    path = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf")
    return ImageFont.truetype(path, max(4, height))


Apply = Callable[[Canvas, int, int, np.random.Generator], float]
ORDER: dict[str, Apply] = {
    "blur": _blur,
    "dark": _dark,
    "bright": _bright,
    "flash": _flash,
    "flicker": _flicker,
    "letterbox": functools.partial(_bars, axis=1),
    "pillarbox": functools.partial(_bars, axis=2),
    "watermark": _watermark,
    "subtitle": _subtitle,
    "title": _title,
}
