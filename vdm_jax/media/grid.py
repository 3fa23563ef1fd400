"""Pictures of clips: contact sheets (PNG) and tiled clips (for one video of many samples).

Clips here are host arrays, uint8 `[T, H, W, 3]`.  Small clips are enlarged by a whole factor with nearest
neighbours, so that one pixel of a 16x16 sample stays one crisp square; anything smoother would show a quality the
model does not have.
"""

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, MUTED, RULE = (255, 255, 255), (28, 30, 33), (125, 130, 138), (214, 217, 222)
MARGIN, GAP, ROW_GAP, FRAME_GAP = 20, 28, 18, 3
FONT_SIZE = 14


def to_uint8(clip: np.ndarray) -> np.ndarray:
    """Pixels in [-1, 1] of any float type -> uint8, rounded and clipped; uint8 passes through.

    Raises:
      ValueError: another integer type, or a value that is not finite.
    """
    clip = np.asarray(clip)
    if clip.dtype == np.uint8:
        return clip
    if not np.issubdtype(clip.dtype, np.floating) and clip.dtype.name != "bfloat16":
        raise ValueError(f"clip: dtype {clip.dtype} is neither uint8 nor a float in [-1, 1]")
    clip = clip.astype(np.float32)
    if not np.isfinite(clip).all():
        raise ValueError("clip: holds values that are not finite")
    return np.clip(np.round((clip + 1.0) * 127.5), 0, 255).astype(np.uint8)


def check_clip(clip: np.ndarray, name: str) -> np.ndarray:
    """Returns `clip` if it is uint8 `[T, H, W, 3]` and not empty.

    Raises:
      ValueError: names `name`, the shape and the dtype.
    """
    clip = np.asarray(clip)
    if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3 or 0 in clip.shape:
        raise ValueError(f"{name}: expected a clip, uint8 [T, H, W, 3], got {clip.dtype} {list(clip.shape)}")
    return clip


def upscale(frames: np.ndarray, factor: int) -> np.ndarray:
    """Repeats each pixel of `[..., H, W, C]` `factor` times along H and W."""
    return np.repeat(np.repeat(frames, factor, axis=-3), factor, axis=-2)


def enlarge(frames: np.ndarray, least: int) -> np.ndarray:
    """Upscales `[..., H, W, C]` by the smallest whole factor that makes the shorter side at least `least`."""
    return upscale(frames, max(1, math.ceil(least / min(frames.shape[-3:-1]))))


def fit_height(frame: np.ndarray, height: int) -> np.ndarray:
    """One frame `[H, W, 3]` made about `height` high: enlarged by a whole factor, or shrunk by averaging."""
    h, w = frame.shape[:2]
    if h > height:
        size = (max(1, round(w * height / h)), height)
        return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX))
    return upscale(frame, max(1, height // h))


def spread(length: int, count: int) -> list[int]:
    """`count` indices, evenly spaced over `range(length)`, first and last included; all when there are fewer."""
    if length <= count:
        return list(range(length))
    return [round(i * (length - 1) / max(count - 1, 1)) for i in range(count)]


def film_strip(clip: np.ndarray, frames: int = 8, height: int = 96, between: Sequence[int] = PAPER) -> np.ndarray:
    """Evenly spaced frames of a clip side by side, with a colour between: uint8 `[height', width, 3]`."""
    cells = [fit_height(clip[i], height) for i in spread(len(clip), frames)]
    bar = np.full((cells[0].shape[0], FRAME_GAP, 3), between, np.uint8)
    row = [part for cell in cells for part in (cell, bar)]
    return np.concatenate(row[:-1], axis=1)


def contact_sheet(
    clips: Sequence[np.ndarray],
    captions: Sequence[str],
    *,
    reals: Sequence[np.ndarray | None] | None = None,
    frames: int = 8,
    height: int = 96,
    columns: int = 1,
) -> np.ndarray:
    """One picture of many clips: the frames of each in a row, its caption under it.

    Args:
      clips: uint8 `[T, H, W, 3]`; their sizes and lengths may differ.
      captions: one line each; a line wider than its row is cut with an ellipsis.
      reals: real clips with the same captions, or None where there is none; drawn under the sample, both labelled.
      frames: at most that many frames of a clip are shown.
      height: of a frame on the sheet, in pixels.
      columns: clips side by side.

    Returns:
      uint8 `[H, W, 3]`.

    Raises:
      ValueError: no clips, numbers of clips and captions that differ, or a clip of another shape.
    """
    reals = [None] * len(clips) if reals is None else reals
    if not clips or not len(clips) == len(captions) == len(reals):
        raise ValueError(f"contact sheet: {len(clips)} clips, {len(captions)} captions, {len(reals)} real clips")
    cells = []
    for i, (clip, real) in enumerate(zip(clips, reals)):
        cell = {"sample": check_clip(clip, f"clips[{i}]")}
        if real is not None:
            cell["real"] = check_clip(real, f"reals[{i}]")
        cells.append(cell)
    return strip_sheet(cells, captions, frames=frames, height=height, columns=columns)


def strip_sheet(
    cells: Sequence[Mapping[str, np.ndarray]],
    captions: Sequence[str],
    *,
    frames: int = 8,
    height: int = 96,
    columns: int = 1,
    lines: int = 1,
) -> np.ndarray:
    """One picture of many groups of clips: those of a group under one another, labelled, its caption below.

    Args:
      cells: label -> uint8 `[T, H, W, 3]`, a group each; a clip that is alone stands without its label.
      captions: one each; what is wider than its row after `lines` lines is cut with an ellipsis.
      frames, height, columns: as `contact_sheet`.
      lines: of a caption, at most.

    Returns:
      uint8 `[H, W, 3]`.

    Raises:
      ValueError: no columns.
    """
    if columns < 1:
        raise ValueError(f"columns: {columns}; at least 1")
    pictures = []
    for cell, caption in zip(cells, captions, strict=True):
        between = PAPER if len(cell) == 1 else RULE  # white frames, as of flow, would run into one another
        strips = {label: film_strip(clip, frames, height, between) for label, clip in cell.items()}
        pictures.append(_cell(strips, str(caption), lines))
    return _lay_out(pictures, min(columns, len(pictures)))


def pair_sheet(samples: Sequence[np.ndarray], reals: Sequence[np.ndarray], captions: Sequence[str], **layout):
    """`contact_sheet` with each sample above the real clip of the same caption."""
    return contact_sheet(samples, captions, reals=reals, **layout)


def tile(clips: Sequence[np.ndarray], columns: int | None = None, gap: int = 2) -> np.ndarray:
    """Many clips of one shape as one clip: `N x [T, H, W, 3] -> [T, H', W', 3]`, about square unless told.

    Raises:
      ValueError: no clips, or shapes that differ.
    """
    clips = [check_clip(clip, f"clips[{i}]") for i, clip in enumerate(clips)]
    if len({clip.shape for clip in clips}) != 1:
        raise ValueError(f"tile: clips of one shape, got {sorted({clip.shape for clip in clips})}")
    columns = columns or math.ceil(math.sqrt(len(clips)))
    rows = math.ceil(len(clips) / columns)
    t, h, w, c = clips[0].shape
    sheet = np.full((t, rows * (h + gap) - gap, columns * (w + gap) - gap, c), 255, np.uint8)
    for i, clip in enumerate(clips):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        sheet[:, y : y + h, x : x + w] = clip
    return sheet


def png_bytes(image: np.ndarray) -> bytes:
    """Encodes uint8 `[H, W, 3]` as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def write_png(image: np.ndarray, path: str | os.PathLike) -> None:
    """Writes uint8 `[H, W, 3]` as PNG, whole or not at all."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.part")
    partial.write_bytes(png_bytes(image))
    os.replace(partial, path)


def _font(size: int = FONT_SIZE) -> ImageFont.FreeTypeFont:
    """DejaVu Sans comes with matplotlib, so a sheet looks the same on every machine."""
    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def _cell(strips: Mapping[str, np.ndarray], caption: str, lines: int) -> Image.Image:
    """Film strips one under another (labelled when there are several), the caption below."""
    font, small = _font(), _font(FONT_SIZE - 3)
    label = 0 if len(strips) == 1 else max(52, 6 + round(max(map(small.getlength, strips))))
    width = label + max(strip.shape[1] for strip in strips.values())
    written = _broken(caption, font, width - label, lines)
    tall = len(written) * (FONT_SIZE + 4) + 6
    picture = Image.new("RGB", (width, sum(s.shape[0] + FRAME_GAP for s in strips.values()) + tall), PAPER)
    draw, y = ImageDraw.Draw(picture), 0
    for name, strip in strips.items():
        if label:
            edge = (label - 1, y - 1, label + strip.shape[1], y + strip.shape[0])
            draw.rectangle(edge, outline=RULE)
        picture.paste(Image.fromarray(strip), (label, y))
        if label:
            draw.text((0, y + strip.shape[0] // 2), name, MUTED, small, anchor="lm")
        y += strip.shape[0] + FRAME_GAP
    for number, line in enumerate(written):
        draw.text((label, y + 4 + number * (FONT_SIZE + 4)), line, INK, font)
    return picture


def _broken(text: str, font: ImageFont.FreeTypeFont, width: int, lines: int) -> list[str]:
    """A text in lines of at most that width, the last one shortened; one that is empty for an empty text."""
    words, found = text.split(), []
    while len(found) < lines - 1 and font.getlength(" ".join(words)) > width:
        count = max(1, sum(font.getlength(" ".join(words[: k + 1])) <= width for k in range(len(words))))
        found.append(_shorten(" ".join(words[:count]), font, width))
        words = words[count:]
    return [*found, _shorten(" ".join(words), font, width)]


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _lay_out(cells: list[Image.Image], columns: int) -> np.ndarray:
    """Cells from left to right and top to bottom, each column as wide as its widest cell."""
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    widths = [max(row[j].width for row in rows if j < len(row)) for j in range(columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    size = (
        2 * MARGIN + sum(widths) + GAP * (columns - 1),
        2 * MARGIN + sum(heights) + ROW_GAP * (len(rows) - 1),
    )
    sheet = Image.new("RGB", size, PAPER)
    y = MARGIN
    for row, height in zip(rows, heights):
        x = MARGIN
        for cell, width in zip(row, widths):
            sheet.paste(cell, (x, y))
            x += width + GAP
        y += height + ROW_GAP
    return np.asarray(sheet)
