"""`AutoencoderKL` (Stable Diffusion 1 to 3) and `AutoencoderKLTemporalDecoder` (Stable Video Diffusion) of diffusers.

Files of before 2023 name the four matrices of an attention `query`, `key`, `value` and `proj_attn`.
"""

from typing import Any

from vdm_jax.interop.families.family import Family, Options
from vdm_jax.interop.files.keymap import KeyMap, Rule, conv, linear, norm, under
from vdm_jax.models.autoencoders.kl import AutoencoderKL, KLConfig
from vdm_jax.models.autoencoders.temporal_decoder import (
    AutoencoderKLTemporalDecoder,
    TemporalDecoderConfig,
)

_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_NO_EFFECT = ("sample_size", "force_upcast")  # of tiling, and of half precision in pipelines


def spell(name: str) -> str:
    """The present spelling of a tensor's name."""
    return ".".join(_OLD.get(part, part) for part in name.split(".")) if ".attentions." in name else name


def res_block(shortcut: bool) -> list[Rule]:
    """The rules of a `ResBlock`."""
    rules = norm("norm1", "norm1") + conv("conv1", "conv1") + norm("norm2", "norm2") + conv("conv2", "conv2")
    return rules + conv("conv_shortcut", "shortcut") if shortcut else rules


def _space_time_block(shortcut: bool) -> list[Rule]:
    rules = under("spatial_res_block", "space", res_block(shortcut))
    return [*rules, *under("temporal_res_block", "time", res_block(False)), Rule("time_mixer.mix_factor", "mix")]


def _attention() -> list[Rule]:
    rules = norm("group_norm", "norm") + linear("to_out.0", "attention.out")
    for part, name in enumerate(("to_q", "to_k", "to_v")):
        rules += linear(name, "attention.qkv", part=part)
    return rules


def _middle(block, attention: bool) -> list[Rule]:
    rules = under("resnets.0", "before", block(False)) + under("resnets.1", "after", block(False))
    return rules + under("attentions.0", "attention", _attention()) if attention else rules


def _side(widths: tuple[int, ...], depth: int, block, attention: bool, ways: tuple[str, str]) -> list[Rule]:
    """An encoder or decoder; `ways` are its names for resolutions and for what leads from one to the next."""
    rules = conv("conv_in", "conv_in") + norm("conv_norm_out", "norm") + conv("conv_out", "conv_out")
    rules += under("mid_block", "middle", _middle(block, attention))
    before = widths[0]
    for i, width in enumerate(widths):
        theirs, ours = f"{ways[0]}.{i}", f"levels.{i}"
        for j in range(depth):
            rules += under(f"{theirs}.resnets.{j}", f"{ours}.blocks.{j}", block(j == 0 and before != width))
        if i < len(widths) - 1:
            rules += conv(f"{theirs}.{ways[1]}.0.conv", f"{ours}.resample.conv")
        before = width
    return rules


_DOWN, _UP = ("down_blocks", "downsamplers"), ("up_blocks", "upsamplers")


def _kl_keymap(config: KLConfig) -> KeyMap:
    c, attention = config, config.mid_attention
    rules = under("encoder", "encoder", _side(c.widths, c.depth, res_block, attention, _DOWN))
    rules += under("decoder", "decoder", _side(c.widths[::-1], c.depth + 1, res_block, attention, _UP))
    rules += conv("quant_conv", "quant") if c.quant else []
    return KeyMap(rules + (conv("post_quant_conv", "post_quant") if c.post_quant else []))


def _temporal_keymap(config: TemporalDecoderConfig) -> KeyMap:
    c = config
    rules = under("encoder", "encoder", _side(c.widths, c.depth, res_block, True, _DOWN)) + conv("quant_conv", "quant")
    decoder = _side(c.widths[::-1], c.depth + 1, _space_time_block, True, _UP)
    return KeyMap(rules + under("decoder", "decoder", decoder + conv("time_conv_out", "time_out")))


def channels_of(options: Options) -> int:
    """`in_channels`, which must be `out_channels`."""
    channels = options.take("in_channels", 3)
    options.only("out_channels", channels)
    return channels


def read_blocks(options: Options, name: str, kind: str, widths: tuple[int, ...]) -> None:
    """Block types, which must be `kind` for every width."""
    types = options.take(name, [kind] * len(widths))
    for i, found in enumerate(types):
        if found != kind:
            raise ValueError(f"{options.published}: {name}[{i}]={found!r} is not supported (only {kind!r})")
    if len(types) != len(widths):
        raise ValueError(f"{options.published}: {name} has {len(types)} entries, block_out_channels {len(widths)}")


def numbers(values: Any) -> tuple[float, ...] | None:
    """A list of a JSON file, or None."""
    return None if values is None else tuple(float(value) for value in values)


def _read_kl(options: Options) -> KLConfig:
    widths = tuple(options.take("block_out_channels", (64,)))
    read_blocks(options, "down_block_types", "DownEncoderBlock2D", widths)
    read_blocks(options, "up_block_types", "UpDecoderBlock2D", widths)
    options.only("act_fn", "silu", "swish")
    options.ignore(*_NO_EFFECT)
    return KLConfig(
        channels=channels_of(options),
        latent_channels=options.take("latent_channels", 4),
        widths=widths,
        depth=options.take("layers_per_block", 1),
        groups=options.take("norm_num_groups", 32),
        quant=options.take("use_quant_conv", True),
        post_quant=options.take("use_post_quant_conv", True),
        mid_attention=options.take("mid_block_add_attention", True),
        scaling_factor=options.take("scaling_factor", 0.18215),
        shift_factor=options.take("shift_factor", None),
        latents_mean=numbers(options.take("latents_mean", None)),
        latents_std=numbers(options.take("latents_std", None)),
    )


def _write_kl(config: KLConfig) -> dict[str, Any]:
    c, count = config, len(config.widths)
    return {
        "in_channels": c.channels,
        "out_channels": c.channels,
        "down_block_types": ["DownEncoderBlock2D"] * count,
        "up_block_types": ["UpDecoderBlock2D"] * count,
        "block_out_channels": list(c.widths),
        "layers_per_block": c.depth,
        "act_fn": "silu",
        "latent_channels": c.latent_channels,
        "norm_num_groups": c.groups,
        "scaling_factor": c.scaling_factor,
        "shift_factor": c.shift_factor,
        "latents_mean": c.latents_mean and list(c.latents_mean),
        "latents_std": c.latents_std and list(c.latents_std),
        "use_quant_conv": c.quant,
        "use_post_quant_conv": c.post_quant,
        "mid_block_add_attention": c.mid_attention,
    }


def _read_temporal(options: Options) -> TemporalDecoderConfig:
    widths = tuple(options.take("block_out_channels", (64,)))
    read_blocks(options, "down_block_types", "DownEncoderBlock2D", widths)
    # Of any other number the published decoder leaves blocks of its middle out.
    depth = options.take("layers_per_block", 1)
    if depth != 2:
        raise ValueError(f"{options.published}: layers_per_block={depth!r} is not supported (only 2)")
    options.ignore(*_NO_EFFECT)
    return TemporalDecoderConfig(
        channels=channels_of(options),
        latent_channels=options.take("latent_channels", 4),
        widths=widths,
        depth=depth,
        scaling_factor=options.take("scaling_factor", 0.18215),
    )


def _write_temporal(config: TemporalDecoderConfig) -> dict[str, Any]:
    return {
        "in_channels": config.channels,
        "out_channels": config.channels,
        "down_block_types": ["DownEncoderBlock2D"] * len(config.widths),
        "block_out_channels": list(config.widths),
        "layers_per_block": config.depth,
        "latent_channels": config.latent_channels,
        "scaling_factor": config.scaling_factor,
    }


AUTOENCODER_KL = Family("AutoencoderKL", AutoencoderKL, _read_kl, _write_kl, _kl_keymap, spell=spell)
AUTOENCODER_TEMPORAL_DECODER = Family(
    "AutoencoderKLTemporalDecoder",
    AutoencoderKLTemporalDecoder,
    _read_temporal,
    _write_temporal,
    _temporal_keymap,
    spell=spell,
)
