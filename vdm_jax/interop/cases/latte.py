"""Tiny Latte transformers: a clip, a clip of another size, with the variance and without, one picture."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vdm_jax.interop.families.latte import LATTE
from vdm_jax.interop.parity import Case

_TINY = {
    "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 8, "num_layers": 2,
    "cross_attention_dim": 32, "attention_bias": True, "sample_size": 8, "patch_size": 2, "caption_channels": 24,
    "activation_fn": "gelu-approximate", "norm_type": "ada_norm_single", "norm_elementwise_affine": False,
    "norm_eps": 1e-6, "video_length": 3,
}  # fmt: skip


def _ours(network: Any, inputs: Mapping[str, Any]) -> Any:
    return network.with_variance(inputs["x"], inputs["time"], {"tokens": inputs["tokens"]})


def _theirs(module: Any, inputs: Mapping[str, Any]) -> Any:
    x = inputs["x"].permute(0, 4, 1, 2, 3)
    return module(x, inputs["time"], inputs["tokens"], return_dict=False)[0].permute(0, 2, 3, 4, 1)


def _case(name: str, clip: tuple[int, int, int], **options: Any) -> Case:
    inputs = {"x": (2, *clip, 4), "tokens": (2, 7, 24), "time": np.float32([3.0, 700.0])}
    return Case(name, LATTE, {**_TINY, **options}, inputs, _ours, _theirs)


CASES = (
    _case("clip", (3, 8, 8)),
    _case("clip of another size, without variance", (3, 4, 12), out_channels=4),
    _case("picture", (1, 8, 8)),
    _case("large latents", (3, 8, 8), sample_size=128),
)
