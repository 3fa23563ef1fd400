"""`vdm export`: the weights of a run, trained or imported, for PyTorch."""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

from data_pipelines.shards.manifest import load as load_manifest
from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.interop.component import float_type
from vdm_jax.interop.exporting.adapter import export_adapter
from vdm_jax.interop.exporting.diffusers import export_published
from vdm_jax.interop.exporting.lora import export_pairs
from vdm_jax.interop.exporting.module import export_module
from vdm_jax.interop.exporting.original import export_original
from vdm_jax.interop.exporting.trained import Choices
from vdm_jax.interop.files.tensors import MAX_FILE
from vdm_jax.interop.imported import is_imported
from vdm_jax.interop.lora.files import STYLES
from vdm_jax.training.run_directory import read_config

EXAMPLE = """
vdm export runs/wan --out exported
vdm export runs/finetuned --out exported --weights ema --dtype bf16 --shard-size 2
vdm export runs/tiny --format torch --out exported
vdm export runs/lora --format peft --out exported
vdm export runs/adapted --format adapter --out exported
vdm export runs/finetuned --format original --out exported
"""
# Format -> (run, out, choices) -> lines to print.
FORMATS: dict[str, Callable[[Path, Path, Choices], list[str]]] = {
    "diffusers": export_published,
    "original": export_original,
    "torch": export_module,
    "adapter": export_adapter,
    **{style: functools.partial(export_pairs, style=style) for style in STYLES},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument(
        "--format",
        default="diffusers",
        help="diffusers: what from_pretrained of a published class opens; torch: a DiT or UNet of any options with"
        " its own PyTorch code; peft, comfy: the low-rank pairs of a run alone, for diffusers or ComfyUI;"
        " adapter: its adapter alone (%(default)s)",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new folder")
    parser.add_argument("--weights", help="params, ema or ema:0.999; default what the run samples with")
    parser.add_argument("--dtype", help="of the tensors: float32, bfloat16 or float16; default what they were or are")
    parser.add_argument("--shard-size", metavar="GB", type=float, help=f"of a file; default {MAX_FILE / 1e9:g}")
    parser.add_argument("--certificate", metavar="FILE", type=Path, help="of vdm parity --json, for the model card")


def run(args: argparse.Namespace) -> int:
    """Exports; returns the exit status."""
    if args.format not in FORMATS:
        raise ValueError(f"--format: {did_you_mean(args.format, FORMATS)}")
    choices = Choices(
        weights=args.weights,
        dtype=None if args.dtype is None else float_type(args.dtype),
        max_file=MAX_FILE if args.shard_size is None else int(args.shard_size * 1e9),
        data={} if is_imported(args.run) else _data(read_config(args.run)),
        certificate=args.certificate,
    )
    for line in FORMATS[args.format](args.run, args.out, choices):
        print(line)
    print(args.out)
    return 0


def _data(config: dict) -> dict[str, str]:
    """What the manifests of a run's shard sets say, a row each."""
    section = config["data"]
    sets = [section.get("shards"), *(bucket.get("shards") for bucket in section.get("buckets") or ())]
    rows = {}
    for path in dict.fromkeys(filter(None, sets)):
        try:
            manifest = load_manifest(path)
        except (ValueError, RunError):  # moved or gone since; the export does not need it
            rows[f"data `{Path(path).name}`"] = "not at hand when this was written"
            continue
        counts = ", ".join(f"{manifest.records(split):,} clips in `{split}`" for split in manifest.splits)
        rows[f"data `{Path(path).name}`"] = f"{counts}; manifest `{manifest.digest()}`"
    return rows
