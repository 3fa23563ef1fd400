"""A page of sections that opens anywhere: no network, no files beside it.

`report.py` says how a run went; this is for everything else that is looked at rather than read: tables with bars,
charts, contact sheets, playable clips.  The template `page.html.j2` shares its style with the report.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from vdm_jax.errors import RunError
from vdm_jax.media.embed import embed_clip, embed_picture
from vdm_jax.media.grid import fit_height
from vdm_jax.media.report import format_value, spoken

MOST_HEIGHT = 360  # of a clip that has to be encoded; a page of full-size clips would take minutes to open
SHOWN = 24  # clips of a section that are shown at once; the others wait behind one click


@dataclasses.dataclass(frozen=True)
class Bar:
    """A cell of a table with a bar behind its number: `share`, within [0, 1], of the full width."""

    text: str
    share: float


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text, numbers or `Bar`s.

    Attributes:
      columns: their names.
      rows: as many cells each.
      title: above it.
      folded: whether it waits behind one click.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    folded: bool = False
    kind = "table"


@dataclasses.dataclass(frozen=True)
class Charts:
    """SVG charts side by side, or one over the full width.

    Attributes:
      drawn: (title, `<svg>` element).
      title, folded: as in `Table`.
      wide: whether one alone gets the full width.
    """

    drawn: Sequence[tuple[str, str]]
    title: str = ""
    folded: bool = False
    wide: bool = False
    kind = "charts"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A contact sheet or any other picture, uint8 [H, W, 3], with what it shows."""

    pixels: np.ndarray
    title: str
    folded: bool = False
    kind = "picture"

    @property
    def embedded(self) -> Mapping[str, str]:
        """As the template needs it."""
        return embed_picture(self.pixels)


@dataclasses.dataclass(frozen=True)
class Card:
    """One playable clip.

    Attributes:
      media: what `embed.embed_clip` or `embed.embed_mp4` gives.
      title: the caption, or "".
      lines: smaller text under it: further captions, where it comes from.
      chips: short facts, name -> value.
    """

    media: Mapping[str, str]
    title: str = ""
    lines: Sequence[str] = ()
    chips: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Clips:
    """Playable clips in a grid; `folded` as in `Table`."""

    cards: Sequence[Card]
    title: str = ""
    folded: bool = False
    kind = "clips"


Block = Table | Charts | Picture | Clips


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading, a remark beside it, paragraphs, and what is shown."""

    title: str
    blocks: Sequence[Block] = ()
    remark: str = ""
    text: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Page:
    """The whole page; `summary` as in `report.Report`."""

    title: str
    subtitle: str = ""
    summary: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sections: Sequence[Section] = ()


def clip_media(clip: np.ndarray, fps: float) -> dict[str, str]:
    """A clip, uint8 [T, H, W, 3], for a `Card`; one that is large is shrunk."""
    if clip.shape[1] > MOST_HEIGHT:
        clip = np.stack([fit_height(frame, MOST_HEIGHT) for frame in clip])
    return embed_clip(clip, fps)


def render_page(page: Page) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    summary = [(spoken(name), format_value(name, value)) for name, value in page.summary.items()]
    return environment.get_template("page.html.j2").render(
        page=page, summary=summary, shown=SHOWN, cell=_cell, is_number=_is_number
    )


def write_page(path: str | os.PathLike, page: Page) -> None:
    """Renders `page` and writes it to `path`, whole or not at all.

    Raises:
      RunError: the place cannot be written.
    """
    path = Path(path)
    partial, text = path.with_name(f".{path.name}.part"), render_page(page)
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RunError(f"page: cannot write {path}: {error.strerror}") from None


def _cell(value: Any) -> str:
    return "" if value is None else format_value("", value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
