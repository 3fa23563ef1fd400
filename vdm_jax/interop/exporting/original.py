"""`vdm export --format original`: a network as its authors published theirs, which ComfyUI and their own code read.

    OUT/transformer.safetensors (unet, vae, text_encoder, motion_adapter), README.md

Such a file has no `config.json`: whoever reads it takes what no shape tells, as the channels of a head, from what was
published.  So a network goes out only where a reader would take it for itself.  Of a UNet with motion modules these
alone are written, as they are published beside the UNet of pictures that they were trained in.
"""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vdm_jax.interop.component import Component
from vdm_jax.interop.exporting.card import CARD, imported_card, trained_card
from vdm_jax.interop.exporting.diffusers import check_class, published_component
from vdm_jax.interop.exporting.trained import Choices, open_trained
from vdm_jax.interop.families.family import Family
from vdm_jax.interop.families.known import FAMILIES
from vdm_jax.interop.families.unet_motion import MOTION_ADAPTER, UNET_MOTION
from vdm_jax.interop.files.folder import check_new, whole_or_nothing
from vdm_jax.interop.files.tensors import tensors_of
from vdm_jax.interop.imported import is_imported, open_imported, records_of
from vdm_jax.interop.originals.animatediff import MOTION_MODULES
from vdm_jax.interop.originals.latent_diffusion import AUTOENCODER
from vdm_jax.interop.originals.layout import Original, write_original
from vdm_jax.interop.originals.svd import SVD_UNET
from vdm_jax.interop.originals.videocrafter import VIDEOCRAFTER_UNET
from vdm_jax.interop.originals.wan import WAN_22_AUTOENCODER, WAN_AUTOENCODER, WAN_TEXT, WAN_TRANSFORMER
from vdm_jax.models.networks import HOW
from vdm_jax.models.unet.motion import motion_modules

# Class -> its config, to the layout; those that are published in a file of their own.
_LAYOUTS: dict[str, Callable[[Any], Original]] = {
    "AutoencoderKL": lambda config: AUTOENCODER,
    "AutoencoderKLWan": lambda config: WAN_22_AUTOENCODER if config.shortcuts else WAN_AUTOENCODER,
    "MotionAdapter": lambda config: MOTION_MODULES,
    "UMT5EncoderModel": lambda config: WAN_TEXT,
    "UNet": lambda config: VIDEOCRAFTER_UNET,
    "UNetSpatioTemporalConditionModel": lambda config: SVD_UNET,
    "WanTransformer3DModel": lambda config: WAN_TRANSFORMER,
}


def export_original(run: Path, out: Path, choices: Choices) -> list[str]:
    """Writes the network that was trained, or those of an import that have such a layout; see the top of this file.

    Args:
      run: trained or imported.
      out: must not exist, or be empty.
      choices: see `Choices`.

    Returns:
      What was written, a line each.

    Raises:
      ValueError: a network without a layout, or one that a reader would take for another; no such weights.
      RunError: a damaged checkpoint or file; `out` cannot be written.
    """
    check_new(out)
    if is_imported(run):
        return _export_imported(run, out, choices)
    check_class(run)
    trained = open_trained(run, choices.weights)
    found = _alone(published_component(trained))
    original = _layout(found.family, found.config)
    stem = original.component
    opened = f'from safetensors.torch import load_file\n\nweights = load_file("{stem}.safetensors")'
    with whole_or_nothing(out) as partial:
        _write(original, found, partial, choices, stem)
        (partial / CARD).write_text(trained_card(trained, original.title, opened, choices), "utf-8")
    return [f"{stem}: {original.title}"]


def _export_imported(run: Path, out: Path, choices: Choices) -> list[str]:
    if choices.weights not in (None, "params"):
        raise ValueError(f"weights: {choices.weights!r} is not there; {run} was imported and has params alone")
    able, left = {}, {}
    for name, record in records_of(run).items():
        family = FAMILIES[record["class"]]
        try:
            able[name] = _layout(family, family.config(record["config"]))
        except ValueError as error:
            left[name] = str(error)
    if not able:
        raise ValueError(next(iter(left.values())))
    with whole_or_nothing(out) as partial:
        for name, original in able.items():
            (found,) = open_imported(run, name).values()
            _write(original, found, partial, choices, name)
        (partial / CARD).write_text(imported_card(run, choices), "utf-8")
    return [f"{n}: {original.title}" for n, original in able.items()] + [f"not {n}: {why}" for n, why in left.items()]


def _alone(found: Component) -> Component:
    """The motion modules of a UNet that has some; others as they are."""
    if found.family is not UNET_MOTION:
        return found
    return Component(MOTION_ADAPTER, *motion_modules(found.config, found.params))


def _write(original: Original, found: Component, folder: Path, choices: Choices, name: str) -> None:
    """Writes a network as `name` into a folder that is being filled."""
    beside = folder / ".component"
    choices.write(found, beside)
    tensors = {found.family.spell(there): stored for there, stored in tensors_of(beside).items()}
    write_original(original, tensors, folder, name, choices.max_file)
    shutil.rmtree(beside)


def _layout(family: Family, config: Any) -> Original:
    """The layout of a network.

    Raises:
      ValueError: there is none, or whoever reads it would take the network for another one; names the option.
    """
    if family.published not in _LAYOUTS:
        known = ", ".join(_LAYOUTS)
        raise ValueError(f"--format original: no layout is known for {family.published}, only for {known}")
    original = _LAYOUTS[family.published](config)
    wanted = family.keymap(config).shapes(family.shapes(config))
    theirs = {original.rename(name, wanted): original.form(name).shape(shape) for name, shape in wanted.items()}
    try:
        read = family.config(original.config(theirs))
    except KeyError as error:
        raise ValueError(f"--format original: not {original.title}: it has no tensor {error.args[0]}") from None
    except ValueError as error:
        raise ValueError(f"--format original: not {original.title}: {error}") from None
    for field in dataclasses.fields(config):
        ours, taken = getattr(config, field.name), getattr(read, field.name)
        if ours != taken and field.name not in HOW:
            raise ValueError(f"--format original: {field.name}: {ours!r}, but {original.title} is read as {taken!r}")
    return original
