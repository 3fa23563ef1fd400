"""Tiny networks that several published pipelines are put together from, their weights drawn again."""

from typing import Any

from tests.interop.pipelines.oracle import network, tokenizer
from vdm_jax.interop.families.autoencoders_kl import AUTOENCODER_KL
from vdm_jax.interop.families.encoders import CLIP_TEXT
from vdm_jax.interop.families.family import Family

_T5 = {
    "vocab_size": 12, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
_CLIP = {
    "vocab_size": 12, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 9, "bos_token_id": 3, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
_KL = {
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, "scaling_factor": 0.3,
}  # fmt: skip


def t5(family: Family) -> dict[str, Any]:
    """T5 or UMT5, and its tokenizer."""
    return {"tokenizer": tokenizer(), "text_encoder": network(family, _T5, 1, 0.3)}


def clip() -> dict[str, Any]:
    """CLIP's encoder of text, and its tokenizer of nine tokens."""
    return {"tokenizer": tokenizer(9, start=True), "text_encoder": network(CLIP_TEXT, _CLIP, 1, 0.3)}


def pictures() -> dict[str, Any]:
    """The autoencoder of pictures; a latent is two pixels on each side."""
    return {"vae": network(AUTOENCODER_KL, _KL, 2)}
