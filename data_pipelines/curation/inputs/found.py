"""What the reader of a layout hands back, and what all of them are told."""

import dataclasses
from collections.abc import Sequence

from data_pipelines.curation.source import Source
from data_pipelines.shards.manifest import Dropped
from vdm_jax.errors import did_you_mean

IMAGES = ("auto", "yes", "no")
ROLES = ("path", "id", "group", "caption", "captions", "start", "end")


@dataclasses.dataclass(frozen=True)
class InputSettings:
    """How inputs are read.

    Attributes:
      images: whether pictures count, each as a clip of one frame: `yes`, `no`, or `auto`, only where a folder or
        tar holds no video (beside videos they are mostly previews).
      root: the folder (or URL) that the relative paths of a table start from; the table's own unless given.
      columns: which column of a table plays which of `ROLES`, ((role, column), ...); the others are guessed by name.
    """

    images: str = "auto"
    root: str = ""
    columns: tuple[tuple[str, str], ...] = ()

    def __post_init__(self):
        if self.images not in IMAGES:
            raise ValueError(f"images: {did_you_mean(self.images, IMAGES)}")
        for role, _ in self.columns:
            if role not in ROLES:
                raise ValueError(f"columns: {did_you_mean(role, ROLES)}")
        roles = [role for role, _ in self.columns]
        if len(set(roles)) < len(roles):
            raise ValueError(f"columns: {next(r for r in roles if roles.count(r) > 1)!r} is given twice")


@dataclasses.dataclass(frozen=True)
class Found:
    """What an input gave.

    Attributes:
      sources: in a fixed order, whatever the file system's.
      refused: entries that name something unusable (a row without a path, a file that is not there ...).
      ignored: how many files of each suffix were left alone, ((suffix, count), ...), by suffix.
    """

    sources: tuple[Source, ...] = ()
    refused: tuple[Dropped, ...] = ()
    ignored: tuple[tuple[str, int], ...] = ()


def merged(parts: Sequence[Found]) -> Found:
    """Several inputs as one, in order."""
    counts: dict[str, int] = {}
    for suffix, count in (pair for part in parts for pair in part.ignored):
        counts[suffix] = counts.get(suffix, 0) + count
    return Found(
        tuple(source for part in parts for source in part.sources),
        tuple(refused for part in parts for refused in part.refused),
        tuple(sorted(counts.items())),
    )


def wanted(kinds: set[str], images: str) -> set[str]:
    """Of the kinds of file that a place holds, those that are taken."""
    if images == "yes":
        return kinds
    return {"video"} if images == "no" or "video" in kinds else kinds
