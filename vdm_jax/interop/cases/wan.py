"""Tiny Wan transformers: text-to-video, image-to-video, first and last frame, and one time a token."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vdm_jax.interop.families.wan import WAN
from vdm_jax.interop.parity import Case

_FRAMES, _HEIGHT, _WIDTH = 3, 4, 6  # 3 frames of 6 tokens
_TINY = {
    "patch_size": [1, 2, 2], "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4,
    "text_dim": 24, "freq_dim": 32, "ffn_dim": 48, "num_layers": 2,
}  # fmt: skip
_TEXT = 7
_PUBLISHED_TEXT = 512  # theirs tells the picture's tokens from the text's by this number


def _ours(network: Any, inputs: Mapping[str, Any]) -> Any:
    cond = {name: inputs[name] for name in ("tokens", "concat", "image") if name in inputs}
    return network(inputs["x"], inputs["time"], cond)


def _theirs(module: Any, inputs: Mapping[str, Any]) -> Any:
    import torch  # only where a certificate is made

    x = torch.cat([inputs["x"], inputs["concat"]], -1) if "concat" in inputs else inputs["x"]
    time, image = inputs["time"], inputs.get("image")
    if time.ndim == 2:  # one time a token
        time = time.repeat_interleave(_HEIGHT * _WIDTH // 4, dim=1)
    if module.config.pos_embed_seq_len is not None:  # two pictures, one below the other
        image = image.reshape(2 * image.shape[0], -1, image.shape[-1])
    out = module(x.permute(0, 4, 1, 2, 3), time, inputs["tokens"], image, return_dict=False)[0]
    return out.permute(0, 2, 3, 4, 1)


def _case(name: str, options: Mapping[str, Any], text: int = _TEXT, time: Any = (3.0, 700.0), **inputs: Any) -> Case:
    shapes = {"x": (2, _FRAMES, _HEIGHT, _WIDTH, 4), "tokens": (2, text, 24), "time": np.float32(time), **inputs}
    return Case(name, WAN, {**_TINY, **options}, shapes, _ours, _theirs)


_CONCAT = {"concat": (2, _FRAMES, _HEIGHT, _WIDTH, 5)}
_IMAGE = {"in_channels": 9, "image_dim": 20, "added_kv_proj_dim": 32}

CASES = (
    _case("text-to-video", {}),
    _case("text-to-video without cross_attn_norm", {"cross_attn_norm": False}),
    _case("image-to-video", _IMAGE, _PUBLISHED_TEXT, image=(2, 5, 20), **_CONCAT),
    _case("image-to-video 2.2", {"in_channels": 9}, **_CONCAT),
    _case(
        "first and last frame", {**_IMAGE, "pos_embed_seq_len": 6}, _PUBLISHED_TEXT, image=(2, 6, 20), **_CONCAT
    ),
    _case("one time a token", {}, time=((0.0, 500.0, 501.0), (0.0, 0.0, 999.0))),
)  # fmt: skip
