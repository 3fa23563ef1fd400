"""The towers of OpenCLIP inside the files of models that were trained with them.

Queries, keys and values are one matrix there, in this order, and the last projection is the transpose of a linear
layer.
"""

import re
from typing import Any

from vdm_jax.interop.originals.layout import PLAIN, Form, Shapes, count, replaced

_BLOCK = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
_QKV = re.compile(r"(.*)\.self_attn\.([qkv])_proj\.(weight|bias)")
_ENDS = {
    "vision_model.embeddings.class_embedding": "class_embedding",
    "vision_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.embeddings.patch_embedding": "conv1",
    "vision_model.pre_layrnorm": "ln_pre",
    "vision_model.post_layernorm": "ln_post",
    "visual_projection.weight": "proj",
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
}
_ACTIVATION = "gelu"  # of the towers that OpenCLIP trained itself


def tower_name(name: str) -> str:
    """Name in `CLIPVisionModelWithProjection` or `CLIPTextModel` -> name in a tower of OpenCLIP."""
    name = re.sub(r"^(vision_model\.)?encoder\.layers\.", "transformer.resblocks.", name)
    if found := _QKV.fullmatch(name):
        return f"{found[1]}.attn.in_proj_{found[3]}"
    return replaced(name, _BLOCK | _ENDS)


def tower_form(name: str) -> Form:
    """How the tensor of that name lies there."""
    if found := _QKV.fullmatch(name):
        return Form(part=("qkv".index(found[2]), 3))
    return Form(turned=True) if name == "visual_projection.weight" else PLAIN


def vision_config(shapes: Shapes, prefix: str, head_dim: int) -> dict[str, Any]:
    """`config.json` of a tower of pictures, whose names begin with `prefix`; ViT-H has heads of 80 channels."""
    width, _, patch, _ = shapes[f"{prefix}conv1.weight"]
    tokens, projection = shapes[f"{prefix}positional_embedding"][0], shapes[f"{prefix}proj"][1]
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        **_tower(shapes, prefix, width, head_dim),
        "image_size": patch * round((tokens - 1) ** 0.5),
        "model_type": "clip_vision_model",
        "num_channels": 3,
        "patch_size": patch,
        "projection_dim": projection,
    }


def text_config(shapes: Shapes, prefix: str, head_dim: int, below: int) -> dict[str, Any]:
    """`config.json` of a tower of text that is read `below` its last blocks; arguments as in `vision_config`."""
    vocabulary, width = shapes[f"{prefix}token_embedding.weight"]
    tower = _tower(shapes, prefix, width, head_dim)
    return {
        "architectures": ["CLIPTextModel"],
        **tower,
        "eos_token_id": 2,  # as published: prompts end with the largest id
        "max_position_embeddings": shapes[f"{prefix}positional_embedding"][0],
        "model_type": "clip_text_model",
        "num_hidden_layers": tower["num_hidden_layers"] - below,
        "vocab_size": vocabulary,
    }


def _tower(shapes: Shapes, prefix: str, width: int, head_dim: int) -> dict[str, Any]:
    block = f"{prefix}transformer.resblocks"
    return {
        "hidden_act": _ACTIVATION,
        "hidden_size": width,
        "intermediate_size": shapes[f"{block}.0.mlp.c_fc.weight"][0],
        "layer_norm_eps": 1e-5,
        "num_attention_heads": width // head_dim,
        "num_hidden_layers": count(shapes, block + ".{i}.ln_1.weight"),
    }
