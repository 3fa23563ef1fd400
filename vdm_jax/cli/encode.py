"""`vdm encode`: clips become latents, and captions features, by the frozen encoders of an import."""

import argparse
import collections
import concurrent.futures
import dataclasses
import functools
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipelines.loading.clips import check_bucket, shrink
from data_pipelines.shards import manifest as manifests
from data_pipelines.shards.files import check_target
from data_pipelines.shards.latent_writer import LatentWriter, Part, Plan, finished, open_latent_writer, plan_for
from data_pipelines.shards.latents import DTYPES, Entry, LatentRecord, LatentSpec
from data_pipelines.shards.manifest import Manifest
from data_pipelines.shards.reader import ClipSource
from vdm_jax.cli.counter import Counter
from vdm_jax.cli.options import set_figures
from vdm_jax.cli.sample import parse_mesh
from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.geometry import resize_flow
from vdm_jax.interop.finetuning.encoding import ClipEncoder, Encoded, open_encoder
from vdm_jax.media.figures import Figure, add_json_argument, figures_table, write_figures
from vdm_jax.perception.flow import LucasKanade
from vdm_jax.sharding import make_mesh
from vdm_jax.types import Bucket

EXAMPLE = """
vdm encode runs/wan data/clips --out data/latents
vdm encode runs/cogvideox data/clips --out data/latents --flow
vdm encode runs/wan data/clips --out data/latents --frames 81 --batch 8 --mesh data=8 --dtype bfloat16
"""
LISTED = 5  # captions that were cut, named on the terminal
_READERS = 2  # threads that decode clips


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "run", metavar="RUN", type=Path, help="an import with an autoencoder, and a text encoder for captions"
    )
    parser.add_argument("data", metavar="DATA", type=Path, help="shard set of clips, of vdm curate or vdm worlds")
    parser.add_argument("--out", metavar="LATENTS", type=Path, required=True, help="directory to make")
    parser.add_argument("--frames", metavar="T", type=int, help="of each clip, from its start; default all")
    parser.add_argument("--height", metavar="H", type=int, help="pixels; what is stored, or a whole fraction of it")
    parser.add_argument("--width", metavar="W", type=int, help="likewise")
    parser.add_argument("--batch", metavar="N", type=int, help="clips at once (1, or 1 for each part of the mesh)")
    parser.add_argument("--mesh", metavar="AXIS=N,...", help="devices along data, fsdp, context, tensor; default one")
    parser.add_argument("--dtype", default="float16", help=f"of what is stored: {', '.join(DTYPES)} (%(default)s)")
    parser.add_argument("--flow", action="store_true", help="also store the clips' optical flow, for warped noise")
    parser.add_argument("--overwrite", action="store_true", help="replace a set that is there")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Encodes, or goes on with what was begun; returns the exit status."""
    if args.dtype not in DTYPES:
        raise ValueError(f"--dtype: {did_you_mean(args.dtype, DTYPES)}")
    source = manifests.load(args.data)
    pixels = _pixels(source, args)
    mesh = None if args.mesh is None else make_mesh(parse_mesh(args.mesh))
    parts = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    batch = parts if args.batch is None else args.batch
    encoder = open_encoder(args.run, pixels, batch, mesh)
    plan = _plan(encoder, source, pixels, batch, args)
    manifest = None if args.overwrite else finished(args.out, plan)
    if manifest is not None:
        print(f"already there: {args.out}")
        cut = {}
    else:
        check_target(args.out, args.overwrite)
        manifest, cut = _encode(encoder, plan, args)
        print(f"written: {args.out}")
    figures = [*set_figures(manifest), Figure("captions_cut", len(cut))]
    if args.json:
        write_figures(args.json, figures)
    print(figures_table(figures))
    for caption, end in sorted(cut.items())[:LISTED]:
        print(f"cut at the length limit: {caption[:60]!r} ... lost {end!r}")
    return 0


def _pixels(source: Manifest, args: argparse.Namespace) -> tuple[int, int, int]:
    """Size of the clips to encode."""
    if isinstance(source.clip, LatentSpec):
        raise ValueError(f"DATA: {args.data} holds latents already")
    sizes = {name: getattr(args, name) or getattr(source.clip, name) for name in ("frames", "height", "width")}
    check_bucket(Bucket(**sizes, batch=1), source.clip, str(args.data), "encode")
    return tuple(sizes.values())


def _plan(
    encoder: ClipEncoder, source: Manifest, pixels: tuple[int, int, int], batch: int, args: argparse.Namespace
) -> Plan:
    entries, dtype = {}, args.dtype
    for name, leaf in encoder.shapes().items():
        numbers = "float32" if not leaf.shape else dtype
        fill = "last" if name in encoder.needs.repeats else "zeros"
        entries[name] = Entry(leaf.shape, "bool" if leaf.dtype == bool else numbers, fill)
    if args.flow:
        if pixels[0] < 2:
            raise ValueError("--flow: clips of one frame have none")
        entries["flow"] = Entry((pixels[0] - 1, *encoder.latent_shape[1:3], 2), dtype)
    spec = LatentSpec(*encoder.latent_shape, dtype, pixels, entries, encoder.described())
    provenance = {"pipeline": "encode", "clips": source.digest(), "made_by": dict(source.provenance)}
    settings = {**dict(zip(("frames", "height", "width"), pixels)), "batch": batch, "dtype": dtype}
    settings |= {"flow": repr(LucasKanade())} if args.flow else {}
    records = {split: source.records(split) for split in source.splits}
    return plan_for(spec, records, provenance, {**settings, "clips": dict(source.settings)})


def _encode(encoder: ClipEncoder, plan: Plan, args: argparse.Namespace) -> tuple[Manifest, dict[str, str]]:
    """The manifest, and what was cut off captions that were encoded now."""
    if not encoder.reads_text and encoder.needs.reading is not None:
        print(f"{args.run} has no text encoder: captions are stored, but not encoded", file=sys.stderr)
    encoder.load()
    cut: dict[str, str] = {}
    with open_latent_writer(args.out, plan, encoder.null(), overwrite=args.overwrite) as writer:
        clips = _Clips(encoder, args.data, writer.plan, cut)
        try:
            clips.write_all(writer)
        except (RunError, KeyboardInterrupt):
            total = len(plan.parts())
            kept = total - len(writer.missing())
            print(f"{kept} of {total} shards are finished; the same command goes on from there", file=sys.stderr)
            raise
        return writer.finish(), cut


class _Clips:
    """Clips on their way through the encoders."""

    def __init__(self, encoder: ClipEncoder, data: Path, plan: Plan, cut: dict[str, str]):
        self._encoder, self._data, self._plan, self._cut = encoder, data, plan, cut
        self._done = 0

    def write_all(self, writer: LatentWriter) -> None:
        """Encodes every shard that is missing."""
        parts, counter = writer.missing(), Counter("encode", "clips")
        total = sum(part.stop - part.start for part in parts)
        for part in parts:
            records = self._records(part)
            writer.write(part, self._counted(records, counter, total))

    def _counted(self, records: Iterator[LatentRecord], counter: Counter, total: int) -> Iterator[LatentRecord]:
        for record in records:
            self._done += 1
            counter(self._done, total)
            yield record

    def _records(self, part: Part) -> Iterator[LatentRecord]:
        size = self._plan.settings["batch"]
        source = ClipSource(self._data, part.split)
        starts = range(part.start, part.stop, size)
        groups = [range(start, min(start + size, part.stop)) for start in starts]
        with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
            for clips in _ahead(pool, source, groups):
                yield from self._group(clips)
        source.close()

    def _group(self, clips: list[dict[str, Any]]) -> Iterator[LatentRecord]:
        frames, height, _ = self._plan.clip.pixels
        pixels = np.stack([shrink(clip["video"][:frames], clip["video"].shape[1] // height) for clip in clips])
        made = self._encoder.encode(pixels, [clip["caption"] for clip in clips], [clip["fps"] for clip in clips])
        self._cut |= made.cut
        if "flow" in self._plan.clip.conditions:
            flow = _flow(pixels, (self._plan.clip.height, self._plan.clip.width))
            made = dataclasses.replace(made, conditions={**made.conditions, "flow": np.asarray(flow)})
        for i, clip in enumerate(clips):
            yield self._record(clip, made, i)

    def _record(self, clip: Mapping[str, Any], made: Encoded, i: int) -> LatentRecord:
        spec = self._plan.clip
        conditions = {name: made.conditions[name][i] for name in spec.conditions}
        where = f"clip {clip['index']} ({clip['source']} at {clip['start']:g} s)"
        for name, value in {"latents": made.latents[i], **conditions}.items():
            if not np.isfinite(value).all():
                raise RunError(f"{where}: its {name} are not finite: the encoder fails on it in its own dtype")
            if spec.dtype == "float16" and np.abs(value).max(initial=0) > np.finfo(np.float16).max:
                raise RunError(f"{where}: its {name} do not fit float16; --dtype bfloat16 holds them")
        return LatentRecord(
            latents=made.latents[i],
            conditions=conditions,
            caption=clip["caption"],
            fps=clip["fps"],
            source=clip["source"],
            start=clip["start"],
            split="",
            index=0,
            labels=clip["labels"],
        )


@functools.partial(jax.jit, static_argnums=1)
def _flow(pixels: np.ndarray, size: tuple[int, int]) -> jax.Array:
    """Forward flow of uint8 clips on the grid of their latents, `[B, T - 1, h, w, 2]`."""
    return resize_flow(LucasKanade()(pixels.astype(np.float32) / 127.5 - 1), *size)


def _ahead(pool, source: ClipSource, groups: list[range]) -> Iterator[list[dict[str, Any]]]:
    """Decoded clips, group by group, one group read ahead."""
    waiting: collections.deque = collections.deque()
    for group in groups:
        waiting.append([pool.submit(source.__getitem__, index) for index in group])
        if len(waiting) == 2:
            yield [clip.result() for clip in waiting.popleft()]
    while waiting:
        yield [clip.result() for clip in waiting.popleft()]
