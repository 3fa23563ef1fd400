"""What the matrices of published classes are called in files of low-rank pairs.

    peft     transformer.blocks.0.attn1.to_q.lora_A.weight, ...lora_B.weight         all of them, as diffusers does
    comfy    diffusion_model.blocks.0.self_attn.q.lora_down.weight, ...alpha         Wan and SVD, as their authors do
             lora_unet_down_blocks_0_..._attn1_to_q.lora_down.weight, ...alpha       UNets of pictures, as kohya does
             down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0
                 .processor.to_q_lora.down.weight                                    motion modules, as their authors do
             transformer.transformer_blocks.0.attn1.to_q.lora_A.weight               CogVideoX, as diffusers does
    read too lora_unet_blocks_0_self_attn_q... (musubi), unet...attn1.processor.to_q_lora.down.weight (old diffusers),
             base_model.model... (PEFT itself)

ComfyUI itself reads names of authors and of kohya.  Motion modules are read by the nodes of AnimateDiff-Evolved, which
pass over all else, and CogVideoX by a wrapper of diffusers; neither looks at an `alpha`.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping

from vdm_jax.interop.files.keymap import Shape
from vdm_jax.interop.originals.animatediff import MOTION_MODULES
from vdm_jax.interop.originals.layout import Original
from vdm_jax.interop.originals.svd import SVD_UNET
from vdm_jax.interop.originals.wan import WAN_TRANSFORMER

Shapes = Mapping[str, Shape]
_WEIGHT = ".weight"
_PREFIXES = ("", "transformer.", "unet.", "diffusion_model.", "base_model.model.")
_MOTION = ".motion_modules."
_ORIGINALS = {
    "MotionAdapter": MOTION_MODULES,
    "UNetMotionModel": MOTION_MODULES,
    "UNetSpatioTemporalConditionModel": SVD_UNET,
    "WanTransformer3DModel": WAN_TRANSFORMER,
}


@dataclasses.dataclass(frozen=True)
class Spelling:
    """How a pair is written: `name + down` for A and `name + up` for B.

    Attributes:
      name, down, up: see above.
      alpha: whether `name.alpha` is read; else B has the scale.
    """

    name: str
    down: str = ".lora_down.weight"
    up: str = ".lora_up.weight"
    alpha: bool = True


def prefix_of(published: str) -> str:
    """What stands before the names of a class in a file for its pipeline."""
    return "unet" if "UNet" in published else "transformer"


def peft_spelling(stem: str, published: str) -> Spelling:
    """Of a matrix in files for diffusers, whose scale is in their metadata.

    Args:
      stem: its published name, without `.weight`.
      published: the class.
    """
    return Spelling(f"{prefix_of(published)}.{stem}", ".lora_A.weight", ".lora_B.weight", alpha=False)


def comfy_spellings(shapes: Shapes, published: str) -> dict[str, Spelling]:
    """Of every matrix of a network in files for ComfyUI.

    Args:
      shapes: shape of every matrix by its published name, without `.weight`.
      published: the class.

    Raises:
      ValueError: nothing there is known to have such a network.
    """
    if published not in _COMFY:
        raise ValueError(f"--format comfy: nothing in ComfyUI is known to read {published}, only {', '.join(_COMFY)}; "
                         "--format peft has all")  # fmt: skip
    return {stem: _COMFY[published](stem, name) for stem, name in _by_authors(shapes, published).items()}


def spellings(shapes: Shapes, published: str) -> dict[str, str]:
    """Every name that a matrix goes by, without what tells its halves apart -> its published one.

    Args:
      shapes, published: as in `comfy_spellings`.
    """
    found: dict[str, str] = {}
    for stem, by_authors in _by_authors(shapes, published).items():
        names = [stem, by_authors, _processor(stem), _processor(by_authors)]
        found |= {prefix + name: stem for name in names for prefix in _PREFIXES}
        found |= {f"lora_unet_{name.replace('.', '_')}": stem for name in names}
    return found


def _by_authors(shapes: Shapes, published: str) -> dict[str, str]:
    """Published name -> the one in the file of the authors, or itself where none is known."""
    original = _ORIGINALS.get(published)
    tensors = {f"{stem}{_WEIGHT}": shape for stem, shape in shapes.items()}
    if original is None:
        return {stem: stem for stem in shapes}
    renamed = {name: name if _is_of_pictures(name, original) else original.rename(name, tensors) for name in tensors}
    return {name.removesuffix(_WEIGHT): there.removesuffix(_WEIGHT) for name, there in renamed.items()}


def _is_of_pictures(name: str, original: Original) -> bool:
    """Whether motion modules stand beside the tensor of that name, but are not what it is of."""
    return original is MOTION_MODULES and _MOTION not in name


def _processor(name: str) -> str:
    """A projection of an attention as a property of its processor, which pairs were before PEFT."""
    return re.sub(r"\.(attn\d|attention_blocks\.\d)\.(to_\w+?)(\.0)?$", r".\1.processor.\2", name)


def _authors(stem: str, by_authors: str) -> Spelling:
    return Spelling(f"diffusion_model.{by_authors}")


def _wan(stem: str, by_authors: str) -> Spelling:
    """diffusers, which reads these names as well, knows no `alpha` outside of blocks."""
    return Spelling(f"diffusion_model.{by_authors}", alpha=stem.startswith("blocks."))


def _kohya(stem: str, by_authors: str) -> Spelling:
    return Spelling(f"lora_unet_{stem.replace('.', '_')}")


def _animated(stem: str, by_authors: str) -> Spelling:
    if _MOTION not in stem:
        return _kohya(stem, by_authors)
    return Spelling(_processor(by_authors), "_lora.down.weight", "_lora.up.weight", alpha=False)


_COMFY: dict[str, Callable[[str, str], Spelling]] = {
    "WanTransformer3DModel": _wan,
    "CogVideoXTransformer3DModel": lambda stem, by_authors: peft_spelling(stem, "CogVideoXTransformer3DModel"),
    "UNet2DConditionModel": _kohya,
    "UNetMotionModel": _animated,
    "UNetSpatioTemporalConditionModel": _authors,
}
