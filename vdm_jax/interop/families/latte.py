"""`LatteTransformer3DModel` of diffusers: Latte-1."""

from typing import Any

from vdm_jax.interop.families.family import Family, Options
from vdm_jax.interop.files.keymap import KeyMap, Rule, linear, patches, under
from vdm_jax.models.latte import Latte, LatteConfig

_EPS = 1e-6
# Option -> the value that is built here, and the value where the file does not say.
_FIXED = {
    "activation_fn": ("gelu-approximate", "geglu"),
    "attention_bias": (True, False),
    "norm_type": ("ada_norm_single", "layer_norm"),
    "norm_elementwise_affine": (False, True),
    "norm_eps": (_EPS, 1e-5),
    "dropout": (0.0, 0.0),
}
# Of the authors' own class, whose files diffusers reads too.
_OF_OLD = {
    "attention_type": "default",
    "double_self_attention": False,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "upcast_attention": False,
    "use_linear_projection": False,
}


def _read(options: Options) -> LatteConfig:
    for name, (value, default) in _FIXED.items():
        if (found := options.take(name, default)) != value:
            raise ValueError(f"{options.published}: {name}={found!r} is not supported (only {value!r})")
    for name, value in _OF_OLD.items():
        options.only(name, value)
    options.ignore("num_embeds_ada_norm", "norm_num_groups")  # of kinds of norm that are not this one
    heads, channels = options.take("num_attention_heads", 16), options.take("in_channels")
    dim, outputs = heads * options.take("attention_head_dim", 88), options.take("out_channels", None) or channels
    if outputs not in (channels, 2 * channels):
        allowed = f"{channels} or {2 * channels}"
        raise ValueError(f"{options.published}: out_channels={outputs!r} is not supported (only {allowed})")
    if (width := options.take("cross_attention_dim")) != dim:
        raise ValueError(f"{options.published}: cross_attention_dim={width!r} is not supported (only {dim})")
    return LatteConfig(
        channels=channels,
        learned_variance=outputs != channels,
        patch=options.take("patch_size"),
        dim=dim,
        depth=options.take("num_layers", 1),
        heads=heads,
        text_dim=options.take("caption_channels"),
        frames=options.take("video_length", 16),
        sample_size=options.take("sample_size", 64),
    )


def _write(config: LatteConfig) -> dict[str, Any]:
    return {name: value for name, (value, _) in _FIXED.items()} | {
        "attention_head_dim": config.head_dim,
        "caption_channels": config.text_dim,
        "cross_attention_dim": config.dim,
        "in_channels": config.channels,
        "num_attention_heads": config.heads,
        "num_embeds_ada_norm": 1000,
        "num_layers": config.depth,
        "out_channels": config.out_channels,
        "patch_size": config.patch,
        "sample_size": config.sample_size,
        "video_length": config.frames,
    }


def _block(with_text: bool) -> list[Rule]:
    rules = [
        Rule("scale_shift_table", "modulation"),
        *linear("attn1.to_q", "attention.qkv", part=0),
        *linear("attn1.to_k", "attention.qkv", part=1),
        *linear("attn1.to_v", "attention.qkv", part=2),
        *linear("attn1.to_out.0", "attention.out"),
        *linear("ff.net.0.proj", "mlp.up"),
        *linear("ff.net.2", "mlp.down"),
    ]
    if with_text:
        rules += linear("attn2.to_q", "cross.q")
        rules += linear("attn2.to_k", "cross.kv", part=0)
        rules += linear("attn2.to_v", "cross.kv", part=1)
        rules += linear("attn2.to_out.0", "cross.out")
    return rules


def _keymap(config: LatteConfig) -> KeyMap:
    rules = [
        Rule("pos_embed.proj.weight", "patch_in.kernel", patches((config.patch, config.patch))),
        Rule("pos_embed.proj.bias", "patch_in.bias"),
        *linear("adaln_single.emb.timestep_embedder.linear_1", "time.hidden"),
        *linear("adaln_single.emb.timestep_embedder.linear_2", "time.out"),
        *linear("adaln_single.linear", "modulation"),
        *linear("caption_projection.linear_1", "text_in.hidden"),
        *linear("caption_projection.linear_2", "text_in.out"),
        *under("transformer_blocks.{i}", "units.spatial", _block(with_text=True)),
        *under("temporal_transformer_blocks.{i}", "units.temporal", _block(with_text=False)),
        Rule("scale_shift_table", "final_modulation"),
        *linear("proj_out", "patch_out"),
    ]
    return KeyMap(rules)


LATTE = Family("LatteTransformer3DModel", Latte, _read, _write, _keymap)
