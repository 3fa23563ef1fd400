"""What an export holds beside weights of published classes: PyTorch files, a text encoder trained with a network."""

import importlib.resources
import json
from pathlib import Path
from typing import Any

from vdm_jax.errors import RunError
from vdm_jax.interop.component import Component
from vdm_jax.interop.exporting.trained import Choices, Trained
from vdm_jax.interop.families.dit import TEXT, TrainedText
from vdm_jax.interop.files.tensors import read_json


def ship(module: str, file: Path) -> None:
    """Writes a file of `torch_modules`."""
    source = importlib.resources.files("vdm_jax.interop.exporting.torch_modules") / module
    file.write_text(source.read_text("utf-8"), "utf-8")


def write_text(trained: Trained, folder: Path, choices: Choices) -> None:
    """Writes `text_encoder/`, and `tokenizer/` as the library `tokenizers` reads it.

    Raises:
      RunError: the tokenizer of the run is damaged.
    """
    held = read_json(trained.path / "tokenizer.json")
    text, params = trained.config.networks.text, trained.params["text"]
    choices.write(Component(TEXT, TrainedText(text, len(params["tokens"])), params), folder / "text_encoder")
    try:
        write_json(folder / "tokenizer" / "tokenizer.json", held["tokenizer"])
        said = {"model_max_length": held["length"], "pad_token_id": held.get("pad", 0)}
    except KeyError as error:
        raise RunError(f"{trained.path}/tokenizer.json: damaged, has no {error}") from None
    write_json(folder / "tokenizer" / "tokenizer_config.json", said)


def write_json(file: Path, value: Any) -> None:
    """Writes JSON as published files are laid out."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
