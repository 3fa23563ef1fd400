"""AnimateDiff's motion modules as their authors publish them: v1 and v3, and v2 with one in the middle."""

import re
from typing import Any

from vdm_jax.interop.originals.layout import Original, Shapes, count, replaced

_HEADS, _GROUPS = 8, 32  # of every published file
_FIRST = "down_blocks.{i}.motion_modules.0.temporal_transformer.norm.weight"
_PARTS = {
    "norm1": "norms.0",
    "norm2": "norms.1",
    "norm3": "ff_norm",
    "attn1": "attention_blocks.0",
    "attn2": "attention_blocks.1",
    "pos_embed": "attention_blocks.0.pos_encoder",
}


_POSITIONS = ("attention_blocks.0.pos_encoder.pe", "attention_blocks.1.pos_encoder.pe")  # the same twice


def _name(name: str, shapes: Shapes) -> str:
    block, modules, index, inner = re.fullmatch(r"(.*)\.(motion_modules)\.(\d+)\.(.*)", name).groups()
    return f"{block}.{modules}.{index}.temporal_transformer.{replaced(inner, _PARTS)}"


def _config(shapes: Shapes) -> dict[str, Any]:
    block = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks"
    return {
        "_class_name": "MotionAdapter",
        "block_out_channels": [shapes[_FIRST.replace("{i}", str(i))][0] for i in range(count(shapes, _FIRST))],
        "motion_layers_per_block": count(shapes, "down_blocks.0.motion_modules.{i}.temporal_transformer.norm.weight"),
        "motion_max_seq_length": shapes[f"{block}.0.attention_blocks.0.pos_encoder.pe"][1],
        "motion_mid_block_layers_per_block": 1,
        "motion_norm_num_groups": _GROUPS,
        "motion_num_attention_heads": _HEADS,
        "motion_transformer_layers_per_block": count(shapes, block + ".{i}.norms.0.weight"),
        "use_motion_mid_block": "mid_block.motion_modules.0.temporal_transformer.norm.weight" in shapes,
    }


MOTION_MODULES = Original(
    "AnimateDiff's motion modules of their authors",
    "motion_adapter",
    (_FIRST.replace("{i}", "0"),),
    _config,
    _name,
    lambda name: name.endswith(_POSITIONS[1]),
    twin=lambda name: name.replace(*_POSITIONS) if name.endswith(_POSITIONS[0]) else None,
)
