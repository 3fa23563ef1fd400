"""Wan 2.1 and 2.2 as their authors publish them: transformers, both autoencoders, and the UMT5 encoder.

Numbers that no shape tells are those of every published file: heads of 128 channels, the statistics of the latents.
"""

import math
import re
from typing import Any

from vdm_jax.interop.originals.layout import Original, Shapes, count, replaced

_HEAD_DIM = 128
_TRANSFORMER = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
    "condition_embedder.image_embedder.pos_embed": "img_emb.emb_pos",
    "proj_out": "head.head",
    "attn1": "self_attn",
    "attn2": "cross_attn",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "o",
    "add_k_proj": "k_img",
    "add_v_proj": "v_img",
    "norm_added_k": "norm_k_img",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "norm2": "norm3",
}


def _transformer_name(name: str, shapes: Shapes) -> str:
    if name == "scale_shift_table":
        return "head.modulation"
    if name.startswith("blocks."):
        return replaced(name, _TRANSFORMER | {"scale_shift_table": "modulation"})
    return replaced(name, _TRANSFORMER)


def _transformer_config(shapes: Shapes) -> dict[str, Any]:
    dim, channels, *patch = shapes["patch_embedding.weight"]
    picture = shapes.get("img_emb.proj.1.weight")
    positions = shapes.get("img_emb.emb_pos")
    return {
        "_class_name": "WanTransformer3DModel",
        "added_kv_proj_dim": dim if "blocks.0.cross_attn.k_img.weight" in shapes else None,
        "attention_head_dim": _HEAD_DIM,
        "cross_attn_norm": "blocks.0.norm3.weight" in shapes,
        "eps": 1e-6,
        "ffn_dim": shapes["blocks.0.ffn.0.weight"][0],
        "freq_dim": shapes["time_embedding.0.weight"][1],
        "image_dim": picture[1] if picture else None,
        "in_channels": channels,
        "num_attention_heads": dim // _HEAD_DIM,
        "num_layers": count(shapes, "blocks.{i}.self_attn.q.weight"),
        "out_channels": shapes["head.head.weight"][0] // math.prod(patch),
        "patch_size": patch,
        "pos_embed_seq_len": positions[1] if positions else None,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 1024,
        "text_dim": shapes["text_embedding.0.weight"][1],
    }


_AUTOENCODER_DEPTH = 2  # blocks of a level of the encoder; a decoder's has one more
_BLOCK = {
    "norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6",
    "conv_shortcut": "shortcut",
}  # fmt: skip
_ENDS = {"conv_in": "conv1", "norm_out": "head.0", "conv_out": "head.2"}
_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}


def _autoencoder_ends(name: str) -> str | None:
    """What is not part of a level, in either autoencoder."""
    side, _, rest = name.partition(".")
    if side in ("quant_conv", "post_quant_conv"):
        return f"{'conv1' if side == 'quant_conv' else 'conv2'}.{rest}"
    if rest.startswith(tuple(_ENDS)):
        return f"{side}.{replaced(rest, _ENDS)}"
    if rest.startswith("mid_block."):
        return f"{side}.middle.{replaced(rest.removeprefix('mid_block.'), _MIDDLE | _BLOCK)}"
    return None


def _autoencoder_name(name: str, shapes: Shapes) -> str:
    """2.1: levels are lists of blocks there, one for all; a decoder's level is its blocks and then what enlarges it."""
    if (end := _autoencoder_ends(name)) is not None:
        return end
    side, _, rest = name.partition(".")
    if side == "encoder":
        return f"encoder.downsamples.{replaced(rest.removeprefix('down_blocks.'), _BLOCK)}"
    level, kind, index, inner = re.fullmatch(r"up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.(.*)", rest).groups()
    size = _AUTOENCODER_DEPTH + 2
    number = int(level) * size + (int(index) if kind == "resnets" else size - 1)
    return f"decoder.upsamples.{number}.{replaced(inner, _BLOCK)}"


def _autoencoder_22_name(name: str, shapes: Shapes) -> str:
    """2.2: a level is its blocks and then what leads to the next, in both halves."""
    if (end := _autoencoder_ends(name)) is not None:
        return end
    found = re.fullmatch(r"(encoder|decoder)\.\w+\.(\d+)\.(?:resnets\.(\d+)|\w+sampler)\.(.*)", name)
    side, level, index, inner = found.groups()
    depth, way = (_AUTOENCODER_DEPTH, "downsamples") if side == "encoder" else (_AUTOENCODER_DEPTH + 1, "upsamples")
    return f"{side}.{way}.{level}.{way}.{depth if index is None else index}.{replaced(inner, _BLOCK)}"


def _autoencoder_config(shapes: Shapes) -> dict[str, Any]:
    dim = shapes["encoder.conv1.weight"][0]
    ends = [i for i in range(100) if f"encoder.downsamples.{i}.resample.1.weight" in shapes]
    levels = [0, *(end + 1 for end in ends)]
    widths = [shapes[f"encoder.downsamples.{i}.residual.2.weight"][0] for i in levels]
    return {
        "_class_name": "AutoencoderKLWan",
        "attn_scales": [],
        "base_dim": dim,
        "dim_mult": [width // dim for width in widths],
        "dropout": 0.0,
        "num_res_blocks": _AUTOENCODER_DEPTH,
        "temperal_downsample": [f"encoder.downsamples.{i}.time_conv.weight" in shapes for i in ends],
        "z_dim": shapes["conv2.weight"][0],
    }


_MEAN_22 = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
    0.157, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.123, -0.0313, -0.1649, 0.0117, 0.0723,
    -0.2839, -0.2083, -0.052, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
_STD_22 = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.499, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.06, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)  # fmt: skip


def _autoencoder_22_config(shapes: Shapes) -> dict[str, Any]:
    dim, channels = shapes["encoder.conv1.weight"][:2]
    levels = count(shapes, "encoder.downsamples.{i}.downsamples.0.residual.2.weight")
    widths = [shapes[f"encoder.downsamples.{i}.downsamples.0.residual.2.weight"][0] for i in range(levels)]
    ends = [f"encoder.downsamples.{i}.downsamples.{_AUTOENCODER_DEPTH}.time_conv.weight" for i in range(levels - 1)]
    times = [end in shapes for end in ends]
    patch = math.isqrt(channels // 3)
    return {
        "_class_name": "AutoencoderKLWan",
        "attn_scales": [],
        "base_dim": dim,
        "clip_output": False,
        "decoder_base_dim": shapes["decoder.conv1.weight"][0] * dim // widths[-1],
        "dim_mult": [width // dim for width in widths],
        "dropout": 0.0,
        "in_channels": channels,
        "is_residual": True,
        "latents_mean": list(_MEAN_22),
        "latents_std": list(_STD_22),
        "num_res_blocks": _AUTOENCODER_DEPTH,
        "out_channels": channels,
        "patch_size": patch,
        "scale_factor_spatial": patch * 2 ** len(times),
        "scale_factor_temporal": 2 ** sum(times),
        "temperal_downsample": times,
        "z_dim": shapes["conv2.weight"][0],
    }


_T5 = {
    "shared": "token_embedding",
    "encoder.block": "blocks",
    "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
    "layer.0.SelfAttention": "attn",
    "layer.0.layer_norm": "norm1",
    "layer.1.layer_norm": "norm2",
    "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
    "layer.1.DenseReluDense.wi_1": "ffn.fc1",
    "layer.1.DenseReluDense.wo": "ffn.fc2",
    "encoder.final_layer_norm": "norm",
}


def _t5_config(shapes: Shapes) -> dict[str, Any]:
    vocabulary, dim = shapes["token_embedding.weight"]
    buckets, heads = shapes["blocks.0.pos_embedding.embedding.weight"]
    return {
        "architectures": ["UMT5EncoderModel"],
        "d_ff": shapes["blocks.0.ffn.fc1.weight"][0],
        "d_kv": shapes["blocks.0.attn.q.weight"][0] // heads,
        "d_model": dim,
        "dense_act_fn": "gelu_new",
        "feed_forward_proj": "gated-gelu",
        "is_gated_act": True,
        "layer_norm_epsilon": 1e-6,
        "model_type": "umt5",
        "num_heads": heads,
        "num_layers": count(shapes, "blocks.{i}.attn.q.weight"),
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": buckets,
        "vocab_size": vocabulary,
    }


WAN_TRANSFORMER = Original(
    "the Wan transformer of its authors",
    "transformer",
    ("head.modulation", "patch_embedding.weight", "blocks.0.self_attn.q.weight"),
    _transformer_config,
    _transformer_name,
)
WAN_AUTOENCODER = Original(
    "the Wan 2.1 autoencoder of its authors",
    "vae",
    ("decoder.middle.0.residual.0.gamma", "encoder.downsamples.0.residual.0.gamma"),
    _autoencoder_config,
    _autoencoder_name,
)
WAN_22_AUTOENCODER = Original(
    "the Wan 2.2 autoencoder of its authors",
    "vae",
    ("decoder.middle.0.residual.0.gamma", "encoder.downsamples.0.downsamples.0.residual.0.gamma"),
    _autoencoder_22_config,
    _autoencoder_22_name,
)
WAN_TEXT = Original(
    "the UMT5 encoder of Wan's authors",
    "text_encoder",
    ("blocks.0.pos_embedding.embedding.weight", "token_embedding.weight", "blocks.0.ffn.gate.0.weight"),
    _t5_config,
    lambda name, shapes: replaced(name, _T5),
)
