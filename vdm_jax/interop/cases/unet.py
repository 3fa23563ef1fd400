"""Tiny UNets of every temporal unit: clips of odd sizes, several options of each class."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vdm_jax.interop.families.controlnet import CONTROLNET
from vdm_jax.interop.families.family import Family
from vdm_jax.interop.families.unet import SVD_SCALARS, UNET_2D, UNET_3D, UNET_SPATIO_TEMPORAL
from vdm_jax.interop.families.unet_motion import UNET_MOTION
from vdm_jax.interop.parity import Case

_FRAMES, _HEIGHT, _WIDTH, _CHANNELS = 3, 6, 5, 4
_TRUNK = {"block_out_channels": [32, 64], "layers_per_block": 1, "cross_attention_dim": 24, "norm_num_groups": 8}


def types(kind: str, attention: tuple[bool, ...] = (True, False)) -> dict[str, list[str]]:
    """The block types of a tiny class."""
    names = {side: [f"{'CrossAttn' * has}{side}Block{kind}" for has in attention] for side in ("Down", "Up")}
    return {"down_block_types": names["Down"], "up_block_types": names["Up"][::-1]}


def ours(network: Any, inputs: Mapping[str, Any]) -> Any:
    """Ours, called with the entries of a condition among the inputs."""
    cond = {name: inputs[name] for name in ("tokens", "concat") if name in inputs}
    if "vector" in inputs:
        cond["vector"] = {name: inputs["vector"][:, index] for index, name in enumerate(SVD_SCALARS)}
    return network(inputs["x"], inputs["time"], cond)


def _theirs_pictures(module: Any, inputs: Mapping[str, Any]) -> Any:
    import torch  # only where a certificate is made

    x = torch.cat([inputs["x"], inputs["concat"]], -1) if "concat" in inputs else inputs["x"]
    frames = x.shape[1]
    flat = x.flatten(0, 1).permute(0, 3, 1, 2)
    time = inputs["time"]
    time = time.flatten() if time.ndim == 2 else time.repeat_interleave(frames)
    out = module(flat, time, inputs["tokens"].repeat_interleave(frames, dim=0), return_dict=False)[0]
    return out.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


def _ours_control(network: Any, inputs: Mapping[str, Any]) -> Any:
    control = network(inputs["x"], inputs["time"], {"tokens": inputs["tokens"], "hint": inputs["hint"]})
    return jnp.concatenate([y.ravel() for y in (*control.down, control.mid)])


def _theirs_control(module: Any, inputs: Mapping[str, Any]) -> Any:
    import torch  # only where a certificate is made

    frames = inputs["x"].shape[1]
    x, hint = (inputs[name].flatten(0, 1).permute(0, 3, 1, 2) for name in ("x", "hint"))
    time, tokens = (inputs[name].repeat_interleave(frames, dim=0) for name in ("time", "tokens"))
    down, mid = module(x, time, tokens, hint, return_dict=False)
    return torch.cat([y.permute(0, 2, 3, 1).flatten() for y in (*down, mid)])


def _theirs_clips(module: Any, inputs: Mapping[str, Any]) -> Any:
    x = inputs["x"].permute(0, 4, 1, 2, 3)
    return module(x, inputs["time"], inputs["tokens"], return_dict=False)[0].permute(0, 2, 3, 4, 1)


def _theirs_motion(module: Any, inputs: Mapping[str, Any]) -> Any:
    tokens = inputs["tokens"].repeat_interleave(_FRAMES, dim=0)  # the one class that wants them for each frame
    return _theirs_clips(module, {**inputs, "tokens": tokens})


def _theirs_svd(module: Any, inputs: Mapping[str, Any]) -> Any:
    import torch  # only where a certificate is made

    x = torch.cat([inputs["x"], inputs["concat"]], -1).permute(0, 1, 4, 2, 3)
    out = module(x, inputs["time"], inputs["tokens"], inputs["vector"], return_dict=False)[0]
    return out.permute(0, 1, 3, 4, 2)


def _case(name: str, family: Family, kind: str, theirs: Any, options: Mapping[str, Any], **inputs: Any) -> Case:
    clip = (2, _FRAMES, _HEIGHT, _WIDTH)
    shapes = {"x": (*clip, _CHANNELS), "tokens": (2, 5, 24), "time": np.float32([3.0, 700.0])}
    shapes |= {n: (*clip, v) if n == "concat" else v for n, v in inputs.items()}
    return Case(name, family, {**_TRUNK, **types(kind), **options}, shapes, ours, theirs)


def _pictures(name: str, options: Mapping[str, Any], **inputs: Any) -> Case:
    return _case(name, UNET_2D, "2D", _theirs_pictures, options, **inputs)


def _motion(name: str, options: Mapping[str, Any]) -> Case:
    tiny = {"num_attention_heads": 2, "motion_num_attention_heads": 2, "motion_max_seq_length": 8}
    return _case(name, UNET_MOTION, "Motion", _theirs_motion, {**tiny, **options})


_SVD = {
    "in_channels": 8, "num_attention_heads": [2, 4], "addition_time_embed_dim": 16,
    "projection_class_embeddings_input_dim": 48,
}  # fmt: skip
_SVD_INPUTS = {"concat": 4, "tokens": (2, 1, 24), "vector": np.float32([[6, 127, 0.02], [24, 1, 0.5]])}
_SVD_TRUNK = {  # it always has 32 groups, and with one channel in each the biases before the norms do nothing
    **{name: value for name, value in _TRUNK.items() if name != "norm_num_groups"},
    "block_out_channels": [64, 64],
}

CASES = (
    _pictures("Stable Diffusion 1", {"attention_head_dim": 2}),
    _pictures(
        "Stable Diffusion 2, inpainting, blocks of two, a time each frame",
        {
            "attention_head_dim": [2, 4],
            "use_linear_projection": True,
            "in_channels": 9,
            "transformer_layers_per_block": 2,
        },
        concat=5,
        time=np.float32([[3.0, 5.0, 7.0], [0.0, 500.0, 900.0]]),
    ),
    _case("ModelScope", UNET_3D, "3D", _theirs_clips, {"attention_head_dim": 8}),
    Case(
        "Stable Video Diffusion", UNET_SPATIO_TEMPORAL, {**_SVD_TRUNK, **types("SpatioTemporal"), **_SVD},
        {"x": (2, _FRAMES, _HEIGHT, _WIDTH, 4), "time": np.float32([0.5, -1.0]), **_SVD_INPUTS,
         "concat": (2, _FRAMES, _HEIGHT, _WIDTH, 4)}, ours, _theirs_svd,
    ),
    _motion("AnimateDiff", {}),
    Case(
        "ControlNet", CONTROLNET,
        {**_TRUNK, "down_block_types": types("2D")["down_block_types"], "attention_head_dim": 2,
         "conditioning_embedding_out_channels": [8, 16]},
        {"x": (2, 2, _HEIGHT, _WIDTH, _CHANNELS), "tokens": (2, 5, 24), "time": np.float32([3.0, 700.0]),
         "hint": (2, 2, 2 * _HEIGHT, 2 * _WIDTH, 3)}, _ours_control, _theirs_control,
    ),
)  # fmt: skip
