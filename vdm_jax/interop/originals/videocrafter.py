"""VideoCrafter2 (2401.09047) in the single file of its authors: UNet, autoencoder, encoder of text.

Its UNet is that of ModelScope (2308.06571), which is also told the frame rate; no published class holds it, so it comes
in as the project's own.  Text is read below the last block of OpenCLIP.
"""

from typing import Any

from vdm_jax.interop.families.unet import UNET
from vdm_jax.interop.originals.latent_diffusion import AUTOENCODER
from vdm_jax.interop.originals.layout import PLAIN, Form, Original, Shapes, count
from vdm_jax.interop.originals.numbered import RES, Numbering
from vdm_jax.interop.originals.open_clip import text_config, tower_form, tower_name
from vdm_jax.interop.originals.whole import Whole
from vdm_jax.models.unet.config import UNetConfig

_HEAD_DIM, _TEXT = 64, "cond_stage_model.model."
_CONVS = {f"conv{i}": f"temopral_conv.conv{i}" for i in range(1, 5)}  # so spelt there
_UNET = Numbering(
    {"resnets": 0, "temp_convs": 0, "attentions": 1, "temp_attentions": 2},
    {"resnets": RES, "temp_convs": _CONVS},
    "down_blocks.0.resnets.{i}.conv1.weight",
    {
        "add_embedding.linear_1": "fps_embedding.0",
        "add_embedding.linear_2": "fps_embedding.2",
        "transformer_in": "init_attn.0",
    },
)


def _form(name: str) -> Form:
    """The ends of the first transformer are convolutions over time of one frame."""
    ends = ("transformer_in.proj_in.weight", "transformer_in.proj_out.weight")
    return Form(ones=1) if name in ends else PLAIN


def _config(shapes: Shapes) -> dict[str, Any]:
    firsts, layers = _UNET.firsts(shapes), _UNET.layers(shapes)
    widths = tuple(shapes[f"input_blocks.{i}.0.out_layers.3.weight"][0] for i in firsts)
    middle = "middle_block.1.transformer_blocks"
    blocks = [f"input_blocks.{i}.1.transformer_blocks.{{i}}.norm1.weight" for i in firsts]
    config = UNetConfig(
        channels=shapes["out.2.weight"][0],
        concat_channels=shapes["input_blocks.0.0.weight"][1] - shapes["out.2.weight"][0],
        widths=widths,
        layers=(layers,) * len(widths),
        heads=tuple(width // _HEAD_DIM for width in widths),
        depth=tuple(count(shapes, block) for block in blocks),
        mid_depth=count(shapes, middle + ".{i}.norm1.weight"),
        text_dim=shapes[f"{middle}.0.attn2.to_k.weight"][1],
        projection="linear",
        scalars=("fps",),
        scalar_dim=shapes["fps_embedding.0.weight"][1],
        temporal="convolution",
    )
    return UNET.published_config(config)


VIDEOCRAFTER_UNET = Original(
    "the UNet of VideoCrafter2 of its authors",
    "unet",
    ("fps_embedding.0.weight", "init_attn.0.norm.weight", "input_blocks.1.0.temopral_conv.conv1.0.weight"),
    _config,
    _UNET.rename,
    form=_form,
)
VIDEOCRAFTER_TEXT = Original(
    "the encoder of text of VideoCrafter2 of its authors",
    "text_encoder",
    (f"{_TEXT}token_embedding.weight", f"{_TEXT}transformer.resblocks.1.attn.in_proj_weight"),
    lambda shapes: text_config(shapes, _TEXT, _HEAD_DIM, below=1),
    lambda name, shapes: _TEXT + tower_name(name),
    lambda name: (
        not name.startswith(_TEXT)
        or name.startswith(f"{_TEXT}transformer.resblocks.")  # the last of them
        or name.removeprefix(_TEXT) in ("text_projection", "logit_scale", "attn_mask")
    ),
    tower_form,
)
VIDEOCRAFTER = Whole(
    "VideoCrafter2 of its authors",
    "VideoCrafterPipeline",
    (VIDEOCRAFTER_TEXT, VIDEOCRAFTER_UNET, AUTOENCODER),
    {"scheduler": ("vdm_jax", "scheduler_config.json", {"_class_name": "ScaledDDIMScheduler"})},
    needs=("tokenizer",),
)
