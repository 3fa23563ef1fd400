"""`vdm inspect`: what is in a shard set or in a run, as a table, as JSON, as a contact sheet and as a page."""

import argparse
import json
import math
from pathlib import Path

import numpy as np

from data_pipelines.shards import manifest as manifests
from data_pipelines.shards.latents import LatentSpec
from data_pipelines.shards.manifest import Manifest
from data_pipelines.shards.reader import ClipSource, verify
from vdm_jax.cli.counter import Counter
from vdm_jax.cli.curate import print_dropped
from vdm_jax.cli.inspect_latents import as_picture, latent_figures
from vdm_jax.cli.inspect_page import set_page
from vdm_jax.cli.options import set_figures
from vdm_jax.errors import RunError
from vdm_jax.media.figures import Figure, add_json_argument, figures_table, write_figures
from vdm_jax.media.grid import contact_sheet, spread, write_png
from vdm_jax.media.page import write_page

EXAMPLE = """
vdm inspect data/clips
vdm inspect data/clips --page clips.html
vdm inspect data/clips --verify --json figures.json
vdm inspect runs/demo --parameters
vdm inspect runs/wan --verify
"""
SHOWN = 16
SHEET = "contact_sheet.png"
PAGE = "inspect.html"
IMPORTED = "imported.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("path", metavar="SHARDS|RUN", type=Path, help="a shard set, or the workdir of a run")
    parser.add_argument("--sheet", metavar="PNG", type=Path, help=f"contact sheet to write (PATH/{SHEET})")
    parser.add_argument("--no-sheet", action="store_true", help="write no contact sheet")
    parser.add_argument("--page", metavar="HTML", type=Path, help=f"of a shard set: page to write (SHARDS/{PAGE})")
    parser.add_argument("--no-page", action="store_true", help="write no page")
    parser.add_argument("--verify", action="store_true", help="read everything and compare it with its digests")
    parser.add_argument("--parameters", action="store_true", help="of a run: list every parameter")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Shows what is there; returns the exit status, 1 if something is damaged."""
    if (args.path / manifests.FILE_NAME).is_file():
        page = None if args.no_page else args.page or args.path / PAGE
        figures, picture = inspect_shards(args.path, args.verify, not args.no_sheet, page)
    elif (args.path / "config.json").is_file():
        from vdm_jax.cli.inspect_run import inspect_run  # imports JAX and Orbax, which a shard set does not need

        figures, picture = inspect_run(args.path, args.verify, args.parameters, not args.no_sheet)
    elif (args.path / IMPORTED).is_file():
        figures, picture = inspect_imported(args.path, args.verify), None
    elif not args.path.is_dir():
        raise ValueError(f"path: {args.path} is not a directory")
    else:
        raise ValueError(
            f"path: {args.path} is neither a shard set ({manifests.FILE_NAME}) nor a run (config.json or {IMPORTED})"
        )
    if args.json:
        write_figures(args.json, figures)
    if picture is not None:
        save_sheet(picture, args.sheet or args.path / SHEET)
    return 0 if all(figure.ok is not False for figure in figures) else 1


def inspect_imported(path: Path, everything: bool) -> list[Figure]:
    """Prints what an import holds, per component, and returns it; `everything` compares all weights with their digests.

    Raises:
      RunError: the record is damaged.
    """
    from vdm_jax.interop.families.known import FAMILIES  # imports JAX, which a shard set does not need
    from vdm_jax.interop.imported import damage_of, records_of

    figures = []
    for name, record in records_of(path).items():
        family = FAMILIES[record["class"]]
        shapes = family.shapes(family.config(record["config"])).values()
        figures += [
            Figure(f"{name}/class", family.published),
            Figure(f"{name}/parameters", sum(math.prod(shape) for shape in shapes)),
            Figure(f"{name}/tensors", len(record["tensors"])),
            Figure(f"{name}/stored", ", ".join(sorted(set(record["tensors"].values())))),
            Figure(f"{name}/source", record["source"]),
        ]
    damage = damage_of(path) if everything else {}
    figures += [Figure(f"{name}/intact", fault is None, ok=fault is None) for name, fault in damage.items()]
    print(figures_table(figures))
    for fault in filter(None, damage.values()):
        print(f"damaged: {fault}")
    return figures


def save_sheet(picture: np.ndarray, path: Path) -> None:
    """Writes a contact sheet and says where it is.

    Raises:
      RunError: the place cannot be written.
    """
    try:
        write_png(picture, path)
    except OSError as error:
        raise RunError(f"contact sheet: cannot write {path}: {error.strerror}; see --sheet and --no-sheet") from None
    print(f"contact sheet: {path}")


def inspect_shards(
    path: Path, everything: bool, draw: bool, page: Path | None = None
) -> tuple[list[Figure], np.ndarray | None]:
    """Prints a shard set: counts, shapes, dropped sources, captions, settings.

    Args:
      path: the shard set.
      everything: compare every byte with the digests.
      draw: make a contact sheet.
      page: where to write a page with playable clips; None writes none.

    Returns:
      The figures, and the contact sheet if it was asked for and the set is intact.

    Raises:
      RunError: the manifest or a shard is damaged, and `everything` did not ask for a full account.
    """
    manifest = manifests.load(path)
    figures, damage = set_figures(manifest), None
    sources: dict[str, ClipSource] = {}
    if everything:
        try:
            verify(path, Counter("verify", "files"))
        except RunError as error:
            damage = str(error)
        figures.append(Figure("intact", damage is None, ok=damage is None))
    if not damage:
        sources = {split: ClipSource(path, split) for split in manifest.splits}
        if isinstance(manifest.clip, LatentSpec):
            figures += latent_figures(manifest.clip, sources)
    print(f"shard set {path}  ({manifest.provenance.get('pipeline', 'unknown pipeline')})")
    print(figures_table(figures))
    print_dropped(manifest.dropped)
    print(f"settings: {json.dumps(manifest.settings)}")
    if damage:
        print(f"damaged: {damage}")
        return figures, None
    _print_clips(sources)
    if page is not None:
        write_page(page, set_page(path, manifest, sources))
        print(f"page: {page}")
    return figures, _sheet(manifest, sources) if draw and sources else None


def _print_clips(sources: dict[str, ClipSource]) -> None:
    """One line per split: where its first and last clips come from, and what they are called."""
    for split, source in sources.items():
        for index in spread(len(source), 3):
            record = source.record(index)
            print(f"{split}[{index}]: {record.source} at {record.start:g} s, {record.fps:g} fps, {record.caption!r}")


def _sheet(manifest: Manifest, sources: dict[str, ClipSource]) -> np.ndarray:
    """A picture of clips spread over all splits, uint8 [H, W, 3]; of latents, of three of their channels."""
    clips, captions = [], []
    latent = isinstance(manifest.clip, LatentSpec)
    for split, source in sources.items():
        for index in spread(len(source), max(1, SHOWN // len(sources))):
            item = source[index]
            clips.append(as_picture(item["video"]) if latent else item["video"])
            captions.append(f"{split}[{index}]  {item['caption'] or item['source']}")
    columns = 2 if manifest.clip.width <= 2 * manifest.clip.height else 1
    return contact_sheet(clips, captions, height=72, columns=columns)
