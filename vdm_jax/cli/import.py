"""`vdm import`: published weights become a run, from which one can train, sample and export."""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vdm_jax.errors import did_you_mean
from vdm_jax.interop.component import Examined, float_type
from vdm_jax.interop.imported import import_folder
from vdm_jax.interop.lora.adapters import import_lora
from vdm_jax.interop.originals.importing import import_original, is_original
from vdm_jax.interop.pipelines.families import PIPELINES

EXAMPLE = """
vdm import Wan2.1-T2V-1.3B-Diffusers --out runs/wan
vdm import Wan2.1-T2V-1.3B-Diffusers/transformer --out runs/wan --dtype float32
vdm import v3_sd15_mm.ckpt --out runs/motion
vdm import svd_xt.safetensors --out runs/svd
vdm import stable-diffusion-v1-5 --with motion_adapter=animatediff-v1-5-3 --pipeline AnimateDiffPipeline --out runs/ad
vdm import pytorch_lora_weights.safetensors --base runs/wan --scale 0.8 --out runs/wan_lora
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "folder", metavar="DIR", type=Path,
        help="config.json beside *.safetensors, a pipeline (model_index.json), or a file of a model's authors"
        " (*.safetensors, *.pth, *.ckpt); with --base, a LoRA",
    )  # fmt: skip
    parser.add_argument("--out", metavar="RUN", type=Path, required=True, help="a new run directory")
    parser.add_argument(
        "--dtype", help="of the weights when they are used: float32, bfloat16 or float16 (as they are stored)"
    )
    parser.add_argument(
        "--with", dest="others", metavar="NAME=DIR", action="append", default=[],
        help="a component of the pipeline from another folder, in place of its own or beside them; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--pipeline", metavar="CLASS", help="what the components together make (as model_index.json says)"
    )
    parser.add_argument(
        "--base", metavar="RUN[:COMPONENT]", help="an import to put a LoRA into; it stays, RUN of --out is another"
    )
    parser.add_argument("--scale", metavar="S", type=float, help="strength of the LoRA (1, as it was trained)")


def run(args: argparse.Namespace) -> int:
    """Imports; returns the exit status."""
    dtype = None if args.dtype is None else float_type(args.dtype)
    others = dict(map(_other, args.others))
    if args.pipeline is not None and args.pipeline not in PIPELINES:
        raise ValueError(f"--pipeline: {did_you_mean(args.pipeline, PIPELINES)}")
    if args.base is not None:
        if others or args.pipeline is not None:
            raise ValueError("--with, --pipeline: are for a folder with a model_index.json, not for a LoRA")
        return _put_in(args)
    if args.scale is not None:
        raise ValueError("--scale: is for a LoRA; --base must name the import to put it into")
    if not args.folder.exists():
        raise ValueError(f"DIR: {args.folder} is not a directory, nor a file")
    for name, found in _imported(args.folder, args.out, dtype, others, args.pipeline).items():
        kinds = ", ".join(sorted(kind.name for kind in found.dtypes(dtype)))
        print(f"{name}: {found.family.published}, {found.parameters:,} parameters, {kinds}")
        if found.left_out:
            print(
                f"  {len(found.left_out)} tensors that nothing uses were left out: {', '.join(found.left_out[:3])} ..."
            )
    print(args.out)
    return 0


def _other(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise ValueError(f"--with: {text!r} is not a name and a folder, as in motion_adapter=animatediff-v1-5-3")
    return name, Path(folder)


def _imported(
    path: Path, out: Path, dtype: np.dtype | None, others: Mapping[str, Path], pipeline: str | None
) -> Mapping[str, Examined]:
    if not is_original(path):
        return import_folder(path, out, dtype, others=others, pipeline=pipeline)
    made = import_original(path, out, dtype, others, pipeline)
    print(f"{path.name}: {made.title}")
    if made.left_out:
        print(f"  {len(made.left_out)} other tensors of it were left out: {', '.join(made.left_out[:3])} ...")
    return made.components


def _put_in(args: argparse.Namespace) -> int:
    """Imports a LoRA; returns the exit status."""
    if args.dtype is not None:
        raise ValueError("--dtype: a LoRA is put into weights of the dtype that they have; leave it out")
    if not args.folder.is_file():
        raise ValueError(f"DIR: with --base a LoRA, a file; {args.folder} is none")
    scale = 1.0 if args.scale is None else args.scale
    for name, count in import_lora(args.folder, args.base, args.out, scale).items():
        print(f"{name}: {count} matrices changed by {args.folder.name}, scale {scale:g}")
    print(args.out)
    return 0
