"""The autoencoder of latent diffusion (2112.10752) as its authors name its parts, and the video decoder of SVD.

Levels are numbered from the finest in both halves there; published decoders number them from the coarsest.  A block of
a video decoder holds its counterpart over time as `time_stack`.
"""

import re
from typing import Any

from vdm_jax.interop.originals.layout import PLAIN, Form, Original, Shapes, count, replaced

_PLACE = re.compile(
    r"(encoder|decoder)\.(?:down_blocks\.(\d+)|up_blocks\.(\d+)|mid_block)"
    r"\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)"
)
_ENDS = {"conv_norm_out": "norm_out", "time_conv_out": "conv_out.time_mix_conv"}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OVER_TIME = {
    "temporal_res_block.norm1": "time_stack.in_layers.0",
    "temporal_res_block.conv1": "time_stack.in_layers.2",
    "temporal_res_block.norm2": "time_stack.out_layers.0",
    "temporal_res_block.conv2": "time_stack.out_layers.3",
    "time_mixer.mix_factor": "mix_factor",
}
_MATRIX = re.compile(r".*\.attentions\.\d+\.(to_q|to_k|to_v|to_out\.0)\.weight")


def autoencoder_name(name: str, levels: int) -> str:
    """Name in `AutoencoderKL` or `AutoencoderKLTemporalDecoder` -> name there.

    Args:
      name: of the published class.
      levels: resolutions that it has.
    """
    found = _PLACE.fullmatch(name)
    if found is None:
        return replaced(name, _ENDS)
    side, down, up, kind, index, rest = found.groups()
    level = None if down is up is None else int(down) if up is None else levels - 1 - int(up)
    place = f"{side}.mid" if level is None else f"{side}.{'down' if up is None else 'up'}.{level}"
    if kind == "attentions":
        return f"{place}.attn_1.{replaced(rest, _ATTENTION)}"
    if kind != "resnets":
        return f"{place}.{kind.removesuffix('rs')}.{rest}"
    block = f"block_{int(index) + 1}" if level is None else f"block.{index}"
    inner = replaced(rest.removeprefix("spatial_res_block."), {"conv_shortcut": "nin_shortcut", **_OVER_TIME})
    return f"{place}.{block}.{inner}"


def autoencoder_form(name: str) -> Form:
    """How the tensor of that name lies there: matrices of attention are 1 x 1 convolutions."""
    return Form(ones=2) if _MATRIX.fullmatch(name) else PLAIN


def levels_of(shapes: Shapes, prefix: str = "") -> int:
    """Resolutions of an autoencoder, from either side's names; `prefix` stands before those of the file."""
    theirs = count(shapes, prefix + "encoder.down.{i}.block.0.norm1.weight")
    return theirs or count(shapes, "encoder.down_blocks.{i}.resnets.0.norm1.weight")


def autoencoder_config(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """What `config.json` of either class says of its encoder, whose names begin with `prefix`."""
    place, levels = f"{prefix}encoder.down", levels_of(shapes, prefix)
    return {
        "block_out_channels": [shapes[f"{place}.{i}.block.0.conv1.weight"][0] for i in range(levels)],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": shapes[f"{prefix}encoder.conv_in.weight"][1],
        "latent_channels": shapes[f"{prefix}encoder.conv_out.weight"][0] // 2,
        "layers_per_block": count(shapes, f"{place}.0.block.{{i}}.norm1.weight"),
        "out_channels": shapes[f"{prefix}encoder.conv_in.weight"][1],
        "scaling_factor": 0.18215,  # of every one that these authors published
    }


AUTOENCODER = Original(
    "the autoencoder of latent diffusion of its authors",
    "vae",
    ("encoder.down.0.block.0.norm1.weight", "decoder.up.0.block.0.norm1.weight", "post_quant_conv.weight"),
    lambda shapes: {
        "_class_name": "AutoencoderKL",
        "up_block_types": ["UpDecoderBlock2D"] * levels_of(shapes),
        **autoencoder_config(shapes, ""),
    },
    lambda name, shapes: autoencoder_name(name, levels_of(shapes)),
    lambda name: name.startswith("loss."),
    autoencoder_form,
)
