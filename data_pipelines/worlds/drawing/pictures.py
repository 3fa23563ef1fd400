"""Textured pictures drawn from a random stream: what cameras look at and what objects wear.

A picture is a gradient, slow blotches of colour (value noise, i.e. random grids enlarged smoothly), some dozens of
shapes with sharp anti-aliased edges, and grain of several octaves down to single pixels,

    picture = grade( shapes over gradient + blotches + sum_o a_o noise(2^o pixels) ).

Grading puts the mean into `MEAN` and the contrast into `CONTRAST`, and limits the result to `RANGE`: so a picture is
never dark, bright, flat or blurred by itself, and holds no pure black or white, which are left to defects and text.

Shape legend: H height, W width.
"""

import numpy as np
from PIL import Image, ImageDraw

RANGE = (18.0, 228.0)  # of all channels
MEAN, CONTRAST = (100.0, 146.0), (34.0, 50.0)  # of the luminance: mean and standard deviation
LUMA = np.array((0.299, 0.587, 0.114), np.float32)


def picture(rng: np.random.Generator, height: int, width: int, unit: float) -> np.ndarray:
    """Draws a textured picture.

    Args:
      rng: decides everything.
      height, width: pixels.
      unit: pixels that a middling shape measures; a quarter of the frame's side looks like a scene.

    Returns:
      RGB uint8 [H, W, 3].
    """
    palette = _palette(rng, 6)
    base = Image.fromarray(_backdrop(rng, height, width, unit, palette[:3]))
    pixels = np.asarray(_with_shapes(rng, base, unit, palette), np.float32)
    grain = sum(weight * noise(rng, height, width, cell) for cell, weight in ((1.0, 7.0), (2.5, 9.0), (6.0, 8.0)))
    return _graded(rng, pixels + grain[..., None])


def noise(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Value noise: normal values on a grid of `cell` pixels, enlarged smoothly; float32 [H, W]."""
    rows, columns = max(2, round(height / cell)), max(2, round(width / cell))
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    if (rows, columns) == (height, width):
        return grid
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


def luminance(pixels: np.ndarray) -> np.ndarray:
    """`[..., 3]` RGB -> `[...]` float32 luma (BT.601), 0 to 255."""
    return np.asarray(pixels, np.float32) @ LUMA


def _palette(rng: np.random.Generator, count: int) -> np.ndarray:
    """Colours [count, 3], each with a hue of its own; their brightness is spread, so that edges are seen."""
    hue = (rng.uniform() + np.arange(count) / count + rng.normal(0, 0.05, count)) % 1
    saturation, value = rng.uniform(0.1, 0.6, count), rng.permutation(np.linspace(70, 225, count))
    phase = np.abs((hue[:, None] + np.array((0, 2 / 3, 1 / 3))) % 1 * 6 - 3) - 1  # [count, 3]
    return value[:, None] * (1 - saturation[:, None] * (1 - np.clip(phase, 0, 1)))


def _backdrop(rng: np.random.Generator, height: int, width: int, unit: float, colours: np.ndarray) -> np.ndarray:
    """A vertical gradient between two colours, with blotches of a third; uint8 [H, W, 3]."""
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    blotch = 1 / (1 + np.exp(-3 * noise(rng, height, width, 2 * unit)))[..., None]
    pixels = (1 - down) * colours[0] + down * colours[1]
    return (pixels + 0.5 * blotch * (colours[2] - pixels)).astype(np.uint8)


def _with_shapes(rng: np.random.Generator, base: Image.Image, unit: float, palette: np.ndarray) -> Image.Image:
    """Rectangles, ellipses, triangles and lines over a picture, drawn at twice the size and averaged."""
    width, height = base.size
    canvas = base.resize((2 * width, 2 * height), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(canvas)
    count = int(np.clip(2.6 * height * width / unit**2, 12, 300))
    centres = rng.uniform(0, 1, (count, 2)) * (2 * width, 2 * height)
    radii = unit * rng.uniform(0.15, 1.0, (count, 2)) ** 1.5
    kinds, chosen = rng.integers(0, 4, count), rng.integers(0, len(palette), count)
    shades, corners = rng.normal(1, 0.18, count), rng.uniform(-1, 1, (count, 3, 2))
    for centre, radius, kind, colour, shade, corner in zip(centres, radii, kinds, chosen, shades, corners):
        fill = tuple(int(v) for v in np.clip(palette[colour] * shade, 0, 255))
        box = (*(centre - radius), *(centre + radius))
        if kind == 0:
            draw.rectangle(box, fill)
        elif kind == 1:
            draw.ellipse(box, fill)
        elif kind == 2:
            draw.polygon([tuple(p) for p in centre + 1.4 * radius.max() * corner], fill)
        else:
            ends = centre + 2 * unit * corner[:2]
            draw.line([tuple(p) for p in ends], fill, max(2, round(0.12 * unit)))
    return canvas.reduce(2)


def _graded(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Mean and contrast brought into range; uint8."""
    luma = luminance(pixels)
    mean, spread = rng.uniform(*MEAN), rng.uniform(*CONTRAST)
    pixels = mean + (pixels - luma.mean()) * (spread / max(float(luma.std()), 1e-3))
    return (np.clip(pixels, *RANGE) + 0.5).astype(np.uint8)
