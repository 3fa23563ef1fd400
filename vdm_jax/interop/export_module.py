"""`vdm export --format torch`: the project's own DiT, whatever its options, as a folder that needs PyTorch alone.

OUT/model.py, sample.py   the network, and how it is sampled (`torch_modules/`)
    sampling.json         the process that the weights were trained with, and how the run samples
    transformer/          config.json and safetensors
    text_encoder/         the same, of the encoder that was trained with it
    tokenizer/            tokenizer.json and the length of a prompt
    null.safetensors      features of the empty prompt, where those of prompts come from elsewhere
    README.md
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from vdm_jax.diffusion.configuration import process_to_dict
from vdm_jax.interop.card import CARD, trained_card
from vdm_jax.interop.component import Component
from vdm_jax.interop.dit import DIT
from vdm_jax.interop.folder import check_new, whole_or_nothing
from vdm_jax.interop.imported import is_imported
from vdm_jax.interop.shipped import ship, write_json, write_text
from vdm_jax.interop.tensors import TensorWriter
from vdm_jax.interop.trained import Choices, Trained, open_trained
from vdm_jax.models.dit import DiTConfig
from vdm_jax.training.run_config import run_config_from
from vdm_jax.training.run_directory import read_config

_OPENED = """
from sample import load

model = load(".")
clips = model.sample({})  # [N, T, H, W, C]
"""
_EULER = "sample.py takes Euler steps (DDIM, or ancestral with eta=1), whatever the solver of the run"


def export_module(run: Path, out: Path, choices: Choices) -> list[str]:
    """Writes the folder.

    Args:
      run: trained, its network a DiT.
      out: must not exist, or be empty.
      choices: see `Choices`.

    Returns:
      What was written, a line each.

    Raises:
      ValueError: another network, or an imported run; no such weights; `out` holds something.
      RunError: a damaged checkpoint or tokenizer; `out` cannot be written.
    """
    check_new(out)
    _check_network(run)
    trained = open_trained(run, choices.weights)
    text = trained.config.networks.text
    with whole_or_nothing(out) as partial:
        choices.write(Component(DIT, trained.model, trained.params["backbone"]), partial / "transformer")
        lines = ["transformer: DiT, read by model.py"]
        if text is not None:
            write_text(trained, partial, choices)
            lines.append("text_encoder, tokenizer: those that were trained with it")
        if "null" in trained.params:
            _write_null(trained, partial)
        write_json(partial / "sampling.json", _sampling(trained))
        ship("dit.py", partial / "model.py")
        ship("sample.py", partial / "sample.py")
        opened = _OPENED.format('["a prompt"]' if text else "" if not trained.model.text_dim else "tokens=features")
        notes = [] if trained.config.sample.solver in ("ddim", "euler") else [_EULER]
        card = trained_card(trained, "a DiT with its PyTorch code, `model.py` and `sample.py`", opened, choices, notes)
        (partial / CARD).write_text(card, "utf-8")
    return [*lines, "sample.py: makes clips", *notes]


def _check_network(run: Path) -> None:
    if is_imported(run):
        raise ValueError(
            f"--format: 'torch' is for networks without a published class; {run} was imported, and has one"
        )
    model = run_config_from(read_config(run)).networks.model
    if not isinstance(model, DiTConfig):
        name = type(model).__name__.removesuffix("Config")
        raise ValueError(f"--format: 'torch' has PyTorch code for the DiT, not for {name}; 'diffusers' may have")


def _write_null(trained: Trained, folder: Path) -> None:
    """Features of the empty prompt, as the network was given them."""
    params = trained.params["null"]
    found = {"tokens": np.asarray(params["tokens"])[None]}
    if trained.config.train.tokens_mask:
        found["tokens_mask"] = np.asarray(params["mask"])[None]
    writer = TensorWriter(folder, "null", {name: (value.shape, value.dtype) for name, value in found.items()})
    for name, value in found.items():
        writer.put(name, value)
    writer.close()


def _sampling(trained: Trained) -> dict[str, Any]:
    sample = dataclasses.asdict(trained.config.sample)
    wanted = ("solver", "steps", "guidance", "guidance_rescale", "clip_x0")
    process = process_to_dict(trained.config.process)
    return {"clip": list(trained.config.clip_shape), "process": process, **{name: sample[name] for name in wanted}}
