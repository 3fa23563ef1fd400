"""`vdm export`: the weights of a run, trained or imported, as published code reads them."""

import argparse
from pathlib import Path

from vdm_jax.errors import did_you_mean
from vdm_jax.interop.component import float_type
from vdm_jax.interop.imported import export_run

EXAMPLE = """
vdm export runs/wan --format diffusers --out exported/transformer
vdm export runs/finetuned --format diffusers --out exported/transformer --weights ema --dtype bf16
"""
FORMATS = ("diffusers",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument("--format", default="diffusers", help="diffusers: config.json and safetensors (%(default)s)")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new folder")
    parser.add_argument("--weights", help="params, ema or ema:0.999; default what the run samples with")
    parser.add_argument("--dtype", help="of the tensors: float32, bfloat16 or float16; default what they were or are")


def run(args: argparse.Namespace) -> int:
    """Exports; returns the exit status."""
    if args.format not in FORMATS:
        raise ValueError(f"--format: {did_you_mean(args.format, FORMATS)}")
    dtype = None if args.dtype is None else float_type(args.dtype)
    for name, found in export_run(args.run, args.out, args.weights, dtype).items():
        print(f"{name}: {found.family.published}")
    print(args.out)
    return 0
