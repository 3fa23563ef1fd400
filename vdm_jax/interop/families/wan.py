"""`WanTransformer3DModel` of diffusers: Wan 2.1 and 2.2, text- and image-to-video.

Theirs rotates neighbouring pairs of channels in self-attention only, so Q, K and their norms are permuted there and
nowhere else; queries, keys and values are one fused kernel here.
"""

from typing import Any

from vdm_jax.interop.families.family import Family, Options
from vdm_jax.interop.files.keymap import LEADING, KeyMap, Rule, linear, norm, patches, under
from vdm_jax.models.wan import Wan, WanConfig

_EPS = 1e-6
_QK_NORM = "rms_norm_across_heads"


def _read(options: Options) -> WanConfig:
    options.only("qk_norm", _QK_NORM)
    options.only("eps", _EPS)
    options.ignore("rope_max_seq_len")  # size of a table that is computed here as needed
    heads, inputs = options.take("num_attention_heads", 40), options.take("in_channels", 16)
    channels = options.take("out_channels", 16) or inputs
    dim = heads * options.take("attention_head_dim", 128)
    added = options.take("added_kv_proj_dim", None)
    if added not in (None, dim):
        raise ValueError(f"{options.published}: added_kv_proj_dim={added!r} is not supported (only null or {dim})")
    return WanConfig(
        channels=channels,
        concat_channels=inputs - channels,
        patch=tuple(options.take("patch_size", (1, 2, 2))),
        dim=dim,
        depth=options.take("num_layers", 40),
        heads=heads,
        mlp_dim=options.take("ffn_dim", 13_824),
        text_dim=options.take("text_dim", 4096),
        frequencies=options.take("freq_dim", 256),
        cross_norm=options.take("cross_attn_norm", True),
        image_dim=options.take("image_dim", None) or 0,
        image_keys=added is not None,
        image_positions=options.take("pos_embed_seq_len", None) or 0,
    )


def _write(config: WanConfig) -> dict[str, Any]:
    return {
        "added_kv_proj_dim": config.dim if config.image_keys else None,
        "attention_head_dim": config.head_dim,
        "cross_attn_norm": config.cross_norm,
        "eps": _EPS,
        "ffn_dim": config.mlp_dim,
        "freq_dim": config.frequencies,
        "image_dim": config.image_dim or None,
        "in_channels": config.in_channels,
        "num_attention_heads": config.heads,
        "num_layers": config.depth,
        "out_channels": config.channels,
        "patch_size": list(config.patch),
        "pos_embed_seq_len": config.image_positions or None,
        "qk_norm": _QK_NORM,
        "rope_max_seq_len": 1024,
        "text_dim": config.text_dim,
    }


def _block(config: WanConfig) -> list[Rule]:
    rules = [
        Rule("scale_shift_table", "modulation", LEADING),
        *linear("attn1.to_q", "attention.qkv", part=0, pairs=True),
        *linear("attn1.to_k", "attention.qkv", part=1, pairs=True),
        *linear("attn1.to_v", "attention.qkv", part=2),
        *linear("attn1.to_out.0", "attention.out"),
        *norm("attn1.norm_q", "attention.norm.q", bias=False, pairs=True),
        *norm("attn1.norm_k", "attention.norm.k", bias=False, pairs=True),
        *linear("attn2.to_q", "cross.q"),
        *linear("attn2.to_k", "cross.kv", part=0),
        *linear("attn2.to_v", "cross.kv", part=1),
        *linear("attn2.to_out.0", "cross.out"),
        *norm("attn2.norm_q", "cross.norm.q", bias=False),
        *norm("attn2.norm_k", "cross.norm.k", bias=False),
        *linear("ffn.net.0.proj", "mlp.up"),
        *linear("ffn.net.2", "mlp.down"),
    ]
    if config.cross_norm:
        rules += norm("norm2", "cross_norm")
    if config.image_keys:
        rules += linear("attn2.add_k_proj", "cross.image_kv", part=0)
        rules += linear("attn2.add_v_proj", "cross.image_kv", part=1)
        rules += norm("attn2.norm_added_k", "cross.image_norm", bias=False)
    return rules


def _keymap(config: WanConfig) -> KeyMap:
    rules = [
        Rule("patch_embedding.weight", "patch_in.kernel", patches(config.patch)),
        Rule("patch_embedding.bias", "patch_in.bias"),
        *linear("condition_embedder.time_embedder.linear_1", "time.hidden"),
        *linear("condition_embedder.time_embedder.linear_2", "time.out"),
        *linear("condition_embedder.time_proj", "modulation"),
        *linear("condition_embedder.text_embedder.linear_1", "text_hidden"),
        *linear("condition_embedder.text_embedder.linear_2", "text_out"),
        *under("blocks.{i}", "blocks", _block(config)),
        Rule("scale_shift_table", "final_modulation", LEADING),
        *linear("proj_out", "patch_out"),
    ]
    if config.image_dim:
        rules += under("condition_embedder.image_embedder", "image_in", _image(config))
    return KeyMap(rules, unread=("blocks.{i}.attn2.norm_added_q.weight",))


def _image(config: WanConfig) -> list[Rule]:
    rules = [
        *norm("norm1", "norm_in"),
        *linear("ff.net.0.proj", "hidden"),
        *linear("ff.net.2", "out"),
        *norm("norm2", "norm_out"),
    ]
    return [*rules, Rule("pos_embed", "positions", LEADING)] if config.image_positions else rules


WAN = Family("WanTransformer3DModel", Wan, _read, _write, _keymap)
