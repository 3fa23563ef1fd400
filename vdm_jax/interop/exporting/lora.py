"""`vdm export --format peft|comfy`: the low-rank pairs of a trained run, without the weights they stand beside.

What is written is `OUT/pytorch_lora_weights.safetensors`; its names and layouts are in `lora.files`.
"""

from pathlib import Path

import jax

from vdm_jax.interop.exporting.trained import Choices, restored_weights
from vdm_jax.interop.files.folder import whole_or_nothing
from vdm_jax.interop.imported import is_imported
from vdm_jax.interop.lora.adapters import class_of, factors_of, matrix_shapes
from vdm_jax.interop.lora.files import Factors, write_lora
from vdm_jax.models.networks import kind_of
from vdm_jax.training.run_config import run_config_from
from vdm_jax.training.run_directory import read_config


def export_pairs(run: Path, out: Path, choices: Choices, style: str) -> list[str]:
    """Writes the pairs of a trained run as a folder with one file.

    Args:
      run: its directory.
      out: must not exist, or be empty.
      choices: `weights` and `dtype` of them.
      style: of `lora.files.STYLES`.

    Returns:
      What was written, a line.

    Raises:
      ValueError: the run trained no pairs, or its network has no published class; no such weights; see `factors_of`
        and `lora.files.write_lora`.
      RunError: no intact checkpoint; the file cannot be written.
    """
    if is_imported(run):
        raise ValueError(f"--format {style}: {run} was imported; low-rank pairs are in a run that trained them")
    config = run_config_from(read_config(run))
    if config.lora is None:
        raise ValueError(f"--format {style}: {run} trained no low-rank pairs (config.lora), but all of its weights")
    model = config.networks.model
    if (family := class_of(model)) is None:
        raise ValueError(f"--format {style}: the network of {run} ({kind_of(model)}) has no published class")
    params = jax.device_get(restored_weights(run, config, choices.weights)[1].state["backbone"])
    pairs = factors_of(family, model, params, config.lora.scale)
    if choices.dtype is not None:
        kind = choices.dtype
        pairs = {name: Factors(pair.a.astype(kind), pair.b.astype(kind), pair.scale) for name, pair in pairs.items()}
    with whole_or_nothing(out) as partial:
        write_lora(partial, style, pairs, family.published, matrix_shapes(family, model))
    return [f"{family.published}: {len(pairs)} low-rank pairs of rank {config.lora.rank}"]
