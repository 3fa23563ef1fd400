"""`vdm import`: published weights become a run, from which one can train, sample and export."""

import argparse
from pathlib import Path

from vdm_jax.interop.component import float_type
from vdm_jax.interop.imported import import_folder

EXAMPLE = """
vdm import Wan2.1-T2V-1.3B-Diffusers --out runs/wan
vdm import Wan2.1-T2V-1.3B-Diffusers/transformer --out runs/wan --dtype float32
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "folder", metavar="DIR", type=Path, help="config.json beside *.safetensors, or a pipeline (model_index.json)"
    )
    parser.add_argument("--out", metavar="RUN", type=Path, required=True, help="a new run directory")
    parser.add_argument(
        "--dtype", help="of the weights when they are used: float32, bfloat16 or float16 (as they are stored)"
    )


def run(args: argparse.Namespace) -> int:
    """Imports; returns the exit status."""
    dtype = None if args.dtype is None else float_type(args.dtype)
    if not args.folder.is_dir():
        raise ValueError(f"DIR: {args.folder} is not a directory")
    for name, found in import_folder(args.folder, args.out, dtype).items():
        kinds = ", ".join(sorted(kind.name for kind in found.dtypes(dtype)))
        print(f"{name}: {found.family.published}, {found.parameters:,} parameters, {kinds}")
        if found.left_out:
            print(
                f"  {len(found.left_out)} tensors that nothing uses were left out: {', '.join(found.left_out[:3])} ..."
            )
    print(args.out)
    return 0
