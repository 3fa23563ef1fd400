"""Tiny CogVideoX transformers: 1.0 with each kind of positions and at other sizes, 1.5, and image-to-video of both."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from vdm_jax.interop.families.cogvideox import COGVIDEOX
from vdm_jax.interop.parity import Case

_TEXT = 6
_TINY = {
    "num_attention_heads": 2, "attention_head_dim": 32, "in_channels": 4, "out_channels": 4, "time_embed_dim": 16,
    "text_embed_dim": 24, "num_layers": 2, "sample_width": 12, "sample_height": 8, "sample_frames": 9,
    "max_text_seq_length": _TEXT,
}  # fmt: skip
_ROPE = {"use_rotary_positional_embeddings": True}
_LEARNED = {**_ROPE, "use_learned_positional_embeddings": True, "in_channels": 8}
_LATER = {**_ROPE, "patch_size_t": 2, "patch_bias": False, "sample_width": 14, "sample_height": 14}


def _ours(network: Any, inputs: Mapping[str, Any]) -> Any:
    cond = {name: inputs[name] for name in ("tokens", "concat") if name in inputs}
    if "ofs" in inputs:
        cond["vector"] = {"ofs": inputs["ofs"]}
    return network(inputs["x"], inputs["time"], cond)


def _theirs(module: Any, inputs: Mapping[str, Any]) -> Any:
    import torch  # only where a certificate is made
    from diffusers import CogVideoXPipeline

    x = torch.cat([inputs["x"], inputs["concat"]], -1) if "concat" in inputs else inputs["x"]
    rotary = None
    if module.config.use_rotary_positional_embeddings:
        pipeline = type("Pipeline", (), {"transformer": module, "vae_scale_factor_spatial": 1})()
        angles = functools.partial(CogVideoXPipeline._prepare_rotary_positional_embeddings, pipeline)
        rotary = angles(x.shape[2], x.shape[3], x.shape[1], x.device)
    out = module(
        x.permute(0, 1, 4, 2, 3), inputs["tokens"], inputs["time"], ofs=inputs.get("ofs"), image_rotary_emb=rotary,
        return_dict=False,
    )[0]  # fmt: skip
    return out.permute(0, 1, 3, 4, 2)


def _case(name: str, clip: tuple[int, int, int] = (3, 8, 12), **options: Any) -> Case:
    inputs = {"x": (2, *clip, 4), "tokens": (2, _TEXT, 24), "time": np.float32([3.0, 700.0])}
    if options.get("in_channels", 4) > 4:
        inputs["concat"] = (2, *clip, 4)
    if "ofs_embed_dim" in options:
        inputs["ofs"] = np.float32([2.0, 5.0])
    return Case(name, COGVIDEOX, {**_TINY, **options}, inputs, _ours, _theirs)


CASES = (
    _case("2b"),
    _case("2b, a clip of another size", (2, 4, 8), temporal_interpolation_scale=2.0),
    _case("5b", **_ROPE),
    _case("5b, a clip of another size", (2, 4, 8), **_ROPE),
    _case("5b, a clip higher than wide", (2, 8, 4), **_ROPE),
    _case("5b image-to-video", **_LEARNED),
    _case("5b image-to-video, fewer frames", (2, 8, 12), **_LEARNED),
    _case("1.5", (4, 8, 12), **_LATER),
    _case("1.5 image-to-video", (4, 8, 12), **_LATER, in_channels=8, ofs_embed_dim=16),
)
