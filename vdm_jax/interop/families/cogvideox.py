"""`CogVideoXTransformer3DModel` of diffusers: CogVideoX 2B, 5B, 5B-I2V and 1.5.

Theirs rotates neighbouring pairs of channels, so where there is a rope Q, K and their norms are permuted.  Patches have
their channels outermost there, in 1.0 as a convolution and in 1.5 as a matrix.
"""

from typing import Any

import numpy as np

from vdm_jax.interop.families.family import Family, Options
from vdm_jax.interop.files.keymap import LEADING, LINEAR, KeyMap, Layout, Rule, Shape, linear, norm, patches, under
from vdm_jax.models.cogvideox import CogVideoX, CogVideoXConfig

_POSITIONS = {(False, False): "sincos", (True, False): "rope", (True, True): "rope_learned"}
_STRIDE = 4  # frames of a video that one of latents stands for


def _read(options: Options) -> CogVideoXConfig:
    options.only("activation_fn", "gelu-approximate")
    options.only("attention_bias", True)
    options.only("dropout", 0.0)
    options.only("flip_sin_to_cos", True)
    options.only("freq_shift", 0)
    options.only("norm_elementwise_affine", True)
    options.only("temporal_compression_ratio", _STRIDE)
    options.only("timestep_activation_fn", "silu")
    patch, frames = options.take("patch_size", 2), options.take("patch_size_t", None)
    if frames is None:
        options.only("patch_bias", True)
    else:
        options.ignore("patch_bias")  # theirs has one in any case
        if frames < 2:
            raise ValueError(f"{options.published}: patch_size_t={frames!r} is not supported (only null, or 2 and up)")
    rope = options.take("use_rotary_positional_embeddings", False)
    learned = options.take("use_learned_positional_embeddings", False)
    if (rope, learned) not in _POSITIONS:
        why = "is not supported without use_rotary_positional_embeddings"
        raise ValueError(f"{options.published}: use_learned_positional_embeddings={learned!r} {why}")
    heads, time_dim = options.take("num_attention_heads", 30), options.take("time_embed_dim", 512)
    channels = options.take("out_channels", 16)
    if (offset := options.take("ofs_embed_dim", None)) not in (None, time_dim):
        raise ValueError(f"{options.published}: ofs_embed_dim={offset!r} is not supported (only null or {time_dim})")
    sample = (options.take(f"sample_{name}", size) for name, size in (("frames", 49), ("height", 60), ("width", 90)))
    length, *size = sample
    return CogVideoXConfig(
        channels=channels,
        concat_channels=options.take("in_channels", 16) - channels,
        patch=(frames or 1, patch, patch),
        dim=heads * options.take("attention_head_dim", 64),
        depth=options.take("num_layers", 30),
        heads=heads,
        time_dim=time_dim,
        offset=offset is not None,
        text_dim=options.take("text_embed_dim", 4096),
        text_length=options.take("max_text_seq_length", 226),
        positions=_POSITIONS[rope, learned],
        sample=((length - 1) // _STRIDE + 1, *size),
        space_scale=options.take("spatial_interpolation_scale", 1.875),
        time_scale=options.take("temporal_interpolation_scale", 1.0),
        norm_eps=options.take("norm_eps", 1e-5),
    )


def _write(config: CogVideoXConfig) -> dict[str, Any]:
    frames, height, width = config.sample
    return {
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": config.head_dim,
        "dropout": 0.0,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": config.in_channels,
        "max_text_seq_length": config.text_length,
        "norm_elementwise_affine": True,
        "norm_eps": config.norm_eps,
        "num_attention_heads": config.heads,
        "num_layers": config.depth,
        "ofs_embed_dim": config.time_dim if config.offset else None,
        "out_channels": config.channels,
        "patch_bias": config.patch[0] == 1,
        "patch_size": config.patch[1],
        "patch_size_t": config.patch[0] if config.patch[0] > 1 else None,
        "sample_frames": (frames - 1) * _STRIDE + 1,
        "sample_height": height,
        "sample_width": width,
        "spatial_interpolation_scale": config.space_scale,
        "temporal_compression_ratio": _STRIDE,
        "temporal_interpolation_scale": config.time_scale,
        "text_embed_dim": config.text_dim,
        "time_embed_dim": config.time_dim,
        "timestep_activation_fn": "silu",
        "use_learned_positional_embeddings": config.positions == "rope_learned",
        "use_rotary_positional_embeddings": config.positions != "sincos",
    }


def _outermost(x: np.ndarray, patch: Shape) -> np.ndarray:
    """First dim `(*patch, c)` -> `(c, *patch)`."""
    return np.moveaxis(x.reshape(*patch, -1, *x.shape[1:]), len(patch), 0).reshape(x.shape)


def _innermost(x: np.ndarray, patch: Shape) -> np.ndarray:
    """First dim `(c, *patch)` -> `(*patch, c)`."""
    return np.moveaxis(x.reshape(-1, *patch, *x.shape[1:]), 0, len(patch)).reshape(x.shape)


def _block(pairs: bool) -> list[Rule]:
    rules = [
        *linear("attn1.to_q", "attention.qkv", part=0, pairs=pairs),
        *linear("attn1.to_k", "attention.qkv", part=1, pairs=pairs),
        *linear("attn1.to_v", "attention.qkv", part=2),
        *linear("attn1.to_out.0", "attention.out"),
        *norm("attn1.norm_q", "attention.norm_q", pairs=pairs),
        *norm("attn1.norm_k", "attention.norm_k", pairs=pairs),
        *linear("ff.net.0.proj", "mlp.up"),
        *linear("ff.net.2", "mlp.down"),
    ]
    for theirs, ours in (("norm1", "before_attention"), ("norm2", "before_mlp")):
        rules += [*linear(f"{theirs}.linear", f"{ours}.modulation"), *norm(f"{theirs}.norm", f"{ours}.norm")]
    return rules


def _keymap(config: CogVideoXConfig) -> KeyMap:
    patch, image = config.patch, config.patch[1:]
    matrix = Layout(
        lambda x: LINEAR.to_theirs(_outermost(x, patch)),
        lambda x, shape: _innermost(LINEAR.to_ours(x, shape), patch),
    )
    rows = Layout(lambda x: _outermost(x.T, patch), lambda x, shape: _innermost(x, patch).T)
    row = Layout(lambda x: _outermost(x, patch), lambda x, shape: _innermost(x, patch))
    rules = [
        Rule("patch_embed.proj.weight", "patch_in.kernel", patches(image) if patch[0] == 1 else matrix),
        Rule("patch_embed.proj.bias", "patch_in.bias"),
        *linear("patch_embed.text_proj", "text_in"),
        *linear("time_embedding.linear_1", "time.hidden"),
        *linear("time_embedding.linear_2", "time.out"),
        *under("transformer_blocks.{i}", "blocks", _block(config.positions != "sincos")),
        *norm("norm_final", "norm_tokens"),
        *linear("norm_out.linear", "final_modulation"),
        *norm("norm_out.norm", "norm_out"),
        Rule("proj_out.weight", "patch_out.kernel", rows),
        Rule("proj_out.bias", "patch_out.bias", row),
    ]
    if config.positions == "rope_learned":
        rules.append(Rule("patch_embed.pos_embedding", "positions", LEADING))
    if config.offset:
        rules += linear("ofs_embedding.linear_1", "offset.hidden")
        rules += linear("ofs_embedding.linear_2", "offset.out")
    return KeyMap(rules)


COGVIDEOX = Family("CogVideoXTransformer3DModel", CogVideoX, _read, _write, _keymap)
