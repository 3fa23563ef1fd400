"""`vdm export --format torch`: a DiT or UNet, whatever its options, as a folder that needs PyTorch alone.

OUT/model.py, sample.py   the network, and how it is sampled (`torch_modules/`)
    sampling.json         the process that the weights were trained with, and how the run samples
    transformer/, unet/   config.json and safetensors
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
from vdm_jax.interop.component import Component
from vdm_jax.interop.exporting.card import CARD, trained_card
from vdm_jax.interop.exporting.shipped import ship, write_json, write_text
from vdm_jax.interop.exporting.trained import Choices, Trained, open_trained
from vdm_jax.interop.families.dit import DIT
from vdm_jax.interop.families.family import Family
from vdm_jax.interop.families.unet import UNET
from vdm_jax.interop.files.folder import check_new, whole_or_nothing
from vdm_jax.interop.files.tensors import TensorWriter
from vdm_jax.interop.imported import is_imported
from vdm_jax.models.dit import DiTConfig
from vdm_jax.models.networks import BACKBONES, kind_of
from vdm_jax.models.unet import UNetConfig
from vdm_jax.sampling.generate import SampleConfig
from vdm_jax.training.run_config import run_config_from
from vdm_jax.training.run_directory import read_config


@dataclasses.dataclass(frozen=True)
class _Module:
    """How a network goes out.

    Attributes:
      family: its class, and the names of its tensors.
      folder: of its weights.
      file: of `torch_modules`.
    """

    family: Family
    folder: str
    file: str


_MODULES = {DiTConfig: _Module(DIT, "transformer", "dit.py"), UNetConfig: _Module(UNET, "unet", "unet.py")}
_OPENED = """
from sample import load

model = load(".")
clips = model.sample({})  # [N, T, H, W, C]
"""
_EULER = "sample.py takes Euler steps (DDIM, or ancestral with eta=1), whatever the solver of the run"


def export_module(run: Path, out: Path, choices: Choices) -> list[str]:
    """Writes the folder.

    Args:
      run: trained, its network a DiT or a UNet.
      out: must not exist, or be empty.
      choices: see `Choices`.

    Returns:
      What was written, a line each.

    Raises:
      ValueError: another network, or an imported run; no such weights; `out` holds something.
      RunError: a damaged checkpoint or tokenizer; `out` cannot be written.
    """
    check_new(out)
    module = _module_of(run)
    trained = open_trained(run, choices.weights)
    text = trained.config.networks.text
    with whole_or_nothing(out) as partial:
        choices.write(Component(module.family, trained.model, trained.params["backbone"]), partial / module.folder)
        lines = [f"{module.folder}: {module.family.published}, read by model.py"]
        if text is not None:
            write_text(trained, partial, choices)
            lines.append("text_encoder, tokenizer: those that were trained with it")
        if "null" in trained.params:
            _write_null(trained, partial)
        write_json(partial / "sampling.json", {"network": module.folder, **_sampling(trained)})
        ship(module.file, partial / "model.py")
        ship("sample.py", partial / "sample.py")
        opened = _OPENED.format(_arguments(trained))
        notes = _notes(trained.config.sample)
        what = f"a {module.family.published} with its PyTorch code, `model.py` and `sample.py`"
        card = trained_card(trained, what, opened, choices, notes)
        (partial / CARD).write_text(card, "utf-8")
    return [*lines, "sample.py: makes clips", *notes]


def _module_of(run: Path) -> _Module:
    if is_imported(run):
        raise ValueError(
            f"--format: 'torch' is for runs that trained a network; {run} is an import, whose files are PyTorch's"
        )
    model = run_config_from(read_config(run)).networks.model
    if type(model) not in _MODULES:
        name = BACKBONES[kind_of(model)][1].__name__
        known = " and ".join(module.family.published for module in _MODULES.values())
        raise ValueError(f"--format: 'torch' has PyTorch code for {known}, not for {name}; 'diffusers' may have")
    return _MODULES[type(model)]


def _arguments(trained: Trained) -> str:
    """What is said to `sample` of this model, as Python."""
    model, text = trained.model, trained.config.networks.text
    features = ["tokens=features"] if model.text_dim and text is None else []
    numbers = sorted({*trained.config.train.vector, *trained.config.train.constants})
    said = ", ".join(f'"{name}": {name}' for name in numbers)
    first = ['["a prompt"]'] if text else features
    vector = [f"vector={{{said}}}"] if said else []
    return ", ".join([*first, *vector, *(["concat=concat"] if model.concat_channels else [])])


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


def _notes(sample: SampleConfig) -> list[str]:
    """What of the run's sampling the shipped code does in another way, or not at all."""
    left = [f"sample.{name}" for name in ("noise", "windows", "co_denoise") if getattr(sample, name) is not None]
    notes = [] if sample.solver in ("ddim", "euler") else [_EULER]
    return notes + ([f"sample.py does without {', '.join(left)} of the run"] if left else [])


def _sampling(trained: Trained) -> dict[str, Any]:
    config = trained.config.sample
    sample, (frames, *rest) = dataclasses.asdict(config), trained.config.clip_shape
    wanted = ("solver", "steps", "guidance", "guidance_from", "guidance_also", "guidance_rescale", "clip_x0")
    process = process_to_dict(trained.config.process)
    clip = [config.frames or frames, *rest]
    return {"clip": clip, "process": process, **{name: sample[name] for name in wanted}}
