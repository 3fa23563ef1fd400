"""The UNet of Stable Video Diffusion inside the single file of its authors.

Blocks are numbered through there: the first convolution, then per level its layers and what halves it; upwards per
level its layers, the last of which also enlarges.  A layer holds its parts as `0` (residual) and `1` (transformer),
each with its counterpart over time inside as `time_stack`.
"""

import re
from typing import Any

from vdm_jax.interop.originals.layout import Original, Shapes, count, replaced

_HEAD_DIM = 64  # of every published file
_RES = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_TRANSFORMER = {
    "temporal_transformer_blocks": "time_stack",
    "time_pos_embed.linear_1": "time_pos_embed.0",
    "time_pos_embed.linear_2": "time_pos_embed.2",
}
_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_PLACE = re.compile(
    r"(down_blocks|up_blocks|mid_block)(?:\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)"
)


def _layers(shapes: Shapes) -> int:
    """Of a level, from either side's names."""
    if "conv_in.weight" in shapes:
        return count(shapes, "down_blocks.0.resnets.{i}.spatial_res_block.norm1.weight")
    return next(i for i in range(1, 100) if f"input_blocks.{i}.0.op.weight" in shapes) - 1


def _name(name: str, shapes: Shapes) -> str:
    found = _PLACE.fullmatch(name)
    if found is None:
        return replaced(name, _ENDS)
    side, level, kind, index, rest = found.groups()
    layers, index = _layers(shapes), int(index)
    if kind == "downsamplers":
        return f"input_blocks.{(int(level) + 1) * (layers + 1)}.0.op.{rest.removeprefix('conv.')}"
    inner = _inner(kind, rest)
    if side == "mid_block":
        return f"middle_block.{1 if kind == 'attentions' else 2 * index}.{inner}"
    if side == "down_blocks":
        return f"input_blocks.{1 + int(level) * (layers + 1) + index}.{int(kind == 'attentions')}.{inner}"
    if kind == "upsamplers":
        attended = any(other.startswith(_attended(shapes, level, layers)) for other in shapes)
        return f"output_blocks.{int(level) * (layers + 1) + layers}.{2 if attended else 1}.{inner}"
    return f"output_blocks.{int(level) * (layers + 1) + index}.{int(kind == 'attentions')}.{inner}"


def _attended(shapes: Shapes, level: str, layers: int) -> str:
    """What names of a transformer in an ascending level begin with, on either side."""
    if "conv_in.weight" in shapes:
        return f"up_blocks.{level}.attentions."
    return f"output_blocks.{int(level) * (layers + 1)}.1.norm."


def _inner(kind: str, rest: str) -> str:
    if kind == "resnets":
        part, _, of_part = rest.partition(".")
        if part == "time_mixer":
            return rest
        return ("time_stack." if part == "temporal_res_block" else "") + replaced(of_part, _RES)
    return replaced(rest, _TRANSFORMER) if kind == "attentions" else rest


def _config(shapes: Shapes) -> dict[str, Any]:
    layers = _layers(shapes)
    firsts = [1]
    while f"input_blocks.{firsts[-1] + layers}.0.op.weight" in shapes:
        firsts.append(firsts[-1] + layers + 1)
    widths = [shapes[f"input_blocks.{i}.0.out_layers.3.weight"][0] for i in firsts]
    attended = [f"input_blocks.{i}.1.norm.weight" in shapes for i in firsts]
    text = next(i for i, has in zip(firsts, attended) if has)
    block = f"input_blocks.{text}.1.transformer_blocks"
    numbers = shapes["label_emb.0.0.weight"][1]
    return {
        "_class_name": "UNetSpatioTemporalConditionModel",
        "addition_time_embed_dim": numbers // 3,
        "block_out_channels": widths,
        "cross_attention_dim": shapes[f"{block}.0.attn2.to_k.weight"][1],
        "down_block_types": [f"{'CrossAttn' if has else ''}DownBlockSpatioTemporal" for has in attended],
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "layers_per_block": layers,
        "num_attention_heads": [width // _HEAD_DIM for width in widths],
        "num_frames": 25,
        "out_channels": shapes["out.2.weight"][0],
        "projection_class_embeddings_input_dim": numbers,
        "transformer_layers_per_block": count(shapes, block + ".{i}.norm1.weight"),
        "up_block_types": [f"{'CrossAttn' if has else ''}UpBlockSpatioTemporal" for has in attended[::-1]],
    }


SVD_UNET = Original(
    "the UNet of Stable Video Diffusion of its authors",
    "unet",
    ("label_emb.0.0.weight", "input_blocks.0.0.weight", "input_blocks.1.0.time_stack.in_layers.2.weight"),
    _config,
    _name,
)
