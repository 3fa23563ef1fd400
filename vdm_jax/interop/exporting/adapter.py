"""`vdm export --format adapter`: what a run put into the network of `config.init` and trained, without that network.

OUT/adapter.safetensors    its tensors
    adapter.json           the section `config.adapter`, and which weights it belongs to
    first_frame.py         puts a `first_frame` adapter of a published UNet into diffusers' UNet
    README.md

Tensors have the names and layouts of this project, `down.0.layers.0....kernel`, layers of a stack in one; those of a
`first_frame` adapter of a published UNet have PyTorch's, `....transformer_blocks.0.attn1.first_frame.to_q.weight`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from vdm_jax.adapters.configuration import adapter_to_dict
from vdm_jax.adapters.frames import FirstFrameConfig
from vdm_jax.adapters.lora import Site
from vdm_jax.interop.exporting.card import CARD, trained_card
from vdm_jax.interop.exporting.shipped import ship, write_json
from vdm_jax.interop.exporting.trained import Choices, Trained, restored_weights
from vdm_jax.interop.files.folder import check_new, whole_or_nothing
from vdm_jax.interop.files.tensors import TensorWriter
from vdm_jax.interop.finetuning.origin import read_origin
from vdm_jax.interop.imported import is_imported
from vdm_jax.interop.lora.adapters import names_of
from vdm_jax.models.unet import UNetConfig
from vdm_jax.training.run_config import run_config_from
from vdm_jax.training.run_directory import read_config

STEM = "adapter"
_OPENED = {
    True: 'from first_frame import add\n\nadd(unet, ".")  # of diffusers, the one that it was trained for',
    False: 'from safetensors.numpy import load_file\n\ntensors = load_file("adapter.safetensors")',
}


def export_adapter(run: Path, out: Path, choices: Choices) -> list[str]:
    """Writes the folder.

    Args:
      run: trained, with `config.adapter`.
      out: must not exist, or be empty.
      choices: see `Choices`.

    Returns:
      What was written, a line each.

    Raises:
      ValueError: a run without an adapter; no such weights; `out` holds something.
      RunError: a damaged checkpoint; `out` cannot be written.
    """
    check_new(out)
    if is_imported(run):
        raise ValueError(f"--format adapter: {run} was imported; adapters are in runs that trained them")
    config = run_config_from(read_config(run))
    if config.adapter is None:
        raise ValueError(f"--format adapter: {run} trained no adapter (config.adapter)")
    which, restored = restored_weights(run, config, choices.weights)
    trained = Trained(run, config, which, restored.step, restored.state, read_origin(run))
    own = {path: leaf for path, leaf in flatten_dict(restored.state["backbone"]).items() if config.adapter.tag in path}
    own = jax.device_get(own)
    names = names_of(config.networks.model) if isinstance(config.networks.model, UNetConfig) else {}
    torch = bool(names) and isinstance(config.adapter, FirstFrameConfig)
    tensors = torch_tensors(own, names) if torch else {".".join(path): np.asarray(leaf) for path, leaf in own.items()}
    with whole_or_nothing(out) as partial:
        _write(tensors, partial, choices)
        origin = trained.origin
        base = {"init": origin.init, "source": origin.source, "digest": origin.digest, "published": origin.published}
        write_json(partial / f"{STEM}.json", {"adapter": adapter_to_dict(config.adapter), "base": base})
        if torch:
            ship("first_frame.py", partial / "first_frame.py")
        what = f"an adapter ({config.adapter.tag}) of {len(tensors)} tensors, without the network that it is put into"
        (partial / CARD).write_text(trained_card(trained, what, _OPENED[torch], choices), "utf-8")
    added = ["first_frame.py: puts it into a UNet of diffusers"] if torch else []
    return [f"{STEM}.safetensors: {len(tensors)} tensors", *added]


def torch_tensors(own: Mapping[tuple[str, ...], Any], names: Mapping[Site, str]) -> dict[str, np.ndarray]:
    """Parameters of `FirstFrameQuery` layers under the names that `first_frame.py` gives them.

    Args:
      own: path in the network -> array; `.../attention/first_frame/q/kernel` `[layers, in, heads, c]` and so on.
      names: of the queries of the layers, see `interop.lora.adapters.names_of`.
    """
    found = {}
    for path, leaf in own.items():
        *layer, _, part, kind = path
        stem = names[Site((*layer, "qkv"), "q")].removesuffix("to_q")
        name = f"{stem}first_frame.{'to_q' if part == 'q' else 'to_out'}.{'weight' if kind == 'kernel' else 'bias'}"
        for number, value in enumerate(np.asarray(leaf)):
            matrix = value.reshape(value.shape[0], -1).T if kind == "kernel" else value.reshape(-1)
            found[name.replace("{i}", str(number))] = np.ascontiguousarray(matrix)
    return found


def _write(tensors: Mapping[str, np.ndarray], folder: Path, choices: Choices) -> None:
    if choices.dtype is not None:
        tensors = {name: value.astype(choices.dtype) for name, value in tensors.items()}
    places = {name: (value.shape, value.dtype) for name, value in tensors.items()}
    writer = TensorWriter(folder, STEM, places, choices.max_file)
    for name, value in tensors.items():
        writer.put(name, value)
    writer.close()
