"""Tiny encoders: CLIP of both activations, all that pipelines read of it, T5 and UMT5 with padding.

Ids are inputs that have no gradient; pictures have one.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from vdm_jax.interop.families import encoders
from vdm_jax.interop.families.family import Family
from vdm_jax.interop.parity import Case

_END = 40
_IDS = np.array([[38, 3, 17, 9, _END, _END, _END], [38, 30, 22, 1, 5, 11, _END]])
_MASK = np.arange(7) < np.array([[5], [7]])
_TOWER = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 10,
}  # fmt: skip
_TEXT = {**_TOWER, "vocab_size": _END + 1, "max_position_embeddings": 9, "bos_token_id": 38, "pad_token_id": 1}
_PICTURE = {**_TOWER, "image_size": 8, "patch_size": 4}
_T5 = {"vocab_size": 41, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 2}
_LONG = (np.arange(2 * 140) * 7 % 41).reshape(2, 140)  # beyond the last bucket of positions
_FAR = np.arange(140) < np.array([[140], [9]])

_NAMES = {  # ours -> theirs
    "tokens": lambda out: out.last_hidden_state,
    "hidden": lambda out: out.hidden_states[-2],
    "pooled": lambda out: out.pooler_output,
    "projected": lambda out: out.text_embeds if "text_embeds" in out else out.image_embeds,
}


def _ours(network: Any, inputs: Mapping[str, Any], fields: Sequence[str]) -> Any:
    """Every field in one array, so that one comparison looks at all of them."""
    if "image" in inputs:
        out = network(inputs["image"], skip=1)
    else:
        out = network(inputs["ids"], inputs.get("mask"), skip=1)
    return jnp.concatenate([getattr(out, field).reshape(2, -1) for field in fields], axis=1)


def _theirs(module: Any, inputs: Mapping[str, Any], fields: Sequence[str]) -> Any:
    import torch  # only where a certificate is made

    if "image" in inputs:
        out = module(inputs["image"].permute(0, 3, 1, 2), output_hidden_states=True)
    else:
        out = module(inputs["ids"], attention_mask=inputs.get("mask"), output_hidden_states=True)
    return torch.cat([_NAMES[field](out).reshape(2, -1) for field in fields], dim=1)


def _case(name: str, family: Family, published: Mapping[str, Any], fields: Sequence[str], **inputs: Any) -> Case:
    run = {"fields": fields}
    return Case(name, family, published, inputs, partial(_ours, **run), partial(_theirs, **run))


_OLD = {**_TEXT, "hidden_act": "quick_gelu", "eos_token_id": 2}
_OPEN = {**_TEXT, "hidden_act": "gelu", "eos_token_id": _END}
_V1_1 = {**_T5, "feed_forward_proj": "gated-gelu"}
_ALONE, _PROJECTED = ("tokens", "hidden", "pooled"), ("tokens", "projected")

CASES = (
    _case("quick gelu, pooled at the highest id", encoders.CLIP_TEXT, _OLD, _ALONE, ids=_IDS),
    _case("gelu, padding not seen", encoders.CLIP_TEXT, _OPEN, _ALONE, ids=_IDS, mask=_MASK),
    _case("gelu", encoders.CLIP_TEXT_PROJECTED, _OPEN, _PROJECTED, ids=_IDS),
    _case("gelu", encoders.CLIP_VISION, {**_PICTURE, "hidden_act": "gelu"}, _ALONE, image=(2, 8, 8, 3)),
    _case("quick gelu", encoders.CLIP_VISION_PROJECTED, _PICTURE, _PROJECTED, image=(2, 8, 8, 3)),
    _case("v1.1, padding not seen", encoders.T5_ENCODER, _V1_1, ("tokens",), ids=_LONG, mask=_FAR),
    _case("of 2019, padding seen", encoders.T5_ENCODER, _T5, ("tokens",), ids=_IDS),
    _case("padding not seen", encoders.UMT5_ENCODER, _V1_1, ("tokens",), ids=_LONG, mask=_FAR),
)
