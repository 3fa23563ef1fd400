"""`AutoencoderKLCogVideoX` of diffusers."""

from typing import Any

from vdm_jax.interop.families.autoencoders_kl import channels_of, read_blocks
from vdm_jax.interop.families.family import Family, Options
from vdm_jax.interop.files.keymap import KeyMap, Rule, conv, norm, under
from vdm_jax.models.autoencoders.cogvideox import HALVINGS, AutoencoderKLCogVideoX, CogVideoXConfig


def _causal(theirs: str, ours: str) -> list[Rule]:
    return conv(f"{theirs}.conv", f"{ours}.conv")


def _norm(theirs: str, ours: str, latent: bool) -> list[Rule]:
    if not latent:
        return norm(theirs, f"{ours}.norm")
    rules = norm(f"{theirs}.norm_layer", f"{ours}.norm") + conv(f"{theirs}.conv_y.conv", f"{ours}.scale")
    return rules + conv(f"{theirs}.conv_b.conv", f"{ours}.bias")


def _block(latent: bool, shortcut: bool) -> list[Rule]:
    rules = _norm("norm1", "norm1", latent) + _causal("conv1", "conv1") + _norm("norm2", "norm2", latent)
    rules += _causal("conv2", "conv2")
    return rules + conv("conv_shortcut", "shortcut") if shortcut else rules


def _side(widths: tuple[int, ...], depth: int, latent: bool, ways: tuple[str, str], way: str) -> list[Rule]:
    """An encoder or decoder; `ways` are its names for resolutions and for what leads from one to the next."""
    rules = _causal("conv_in", "conv_in") + _norm("norm_out", "norm", latent) + _causal("conv_out", "conv_out")
    for j in range(2):
        rules += under(f"mid_block.resnets.{j}", f"middle.blocks.{j}", _block(latent, False))
    before = widths[0]
    for i, width in enumerate(widths):
        theirs, ours = f"{ways[0]}.{i}", f"levels.{i}"
        for j in range(depth):
            rules += under(f"{theirs}.resnets.{j}", f"{ours}.blocks.{j}", _block(latent, j == 0 and before != width))
        if i < len(widths) - 1:
            rules += conv(f"{theirs}.{ways[1]}.0.conv", f"{ours}.resample.{way}")
        before = width
    return rules


def _keymap(config: CogVideoXConfig) -> KeyMap:
    widths, depth = config.widths, config.depth
    encoder = _side(widths, depth, False, ("down_blocks", "downsamplers"), "space.conv")
    decoder = _side(widths[::-1], depth + 1, True, ("up_blocks", "upsamplers"), "conv")
    return KeyMap(under("encoder", "encoder", encoder) + under("decoder", "decoder", decoder))


def _read(options: Options) -> CogVideoXConfig:
    widths = tuple(options.take("block_out_channels", (128, 256, 256, 512)))
    read_blocks(options, "down_block_types", "CogVideoXDownBlock3D", widths)
    read_blocks(options, "up_block_types", "CogVideoXUpBlock3D", widths)
    options.only("act_fn", "silu", "swish")
    options.only("temporal_compression_ratio", 2**HALVINGS)
    for name, allowed in (("use_quant_conv", False), ("use_post_quant_conv", False)):
        options.only(name, allowed)
    for name in ("shift_factor", "latents_mean", "latents_std"):
        options.only(name, None)
    options.ignore("sample_height", "sample_width", "sample_size", "force_upcast")  # of tiling and of half precision
    return CogVideoXConfig(
        channels=channels_of(options),
        latent_channels=options.take("latent_channels", 16),
        widths=widths,
        depth=options.take("layers_per_block", 3),
        groups=options.take("norm_num_groups", 32),
        eps=options.take("norm_eps", 1e-6),
        scaling_factor=options.take("scaling_factor", 1.15258426),
        invert_scale_latents=options.take("invert_scale_latents", False),
    )


def _write(config: CogVideoXConfig) -> dict[str, Any]:
    return {
        "in_channels": config.channels,
        "out_channels": config.channels,
        "down_block_types": ["CogVideoXDownBlock3D"] * len(config.widths),
        "up_block_types": ["CogVideoXUpBlock3D"] * len(config.widths),
        "block_out_channels": list(config.widths),
        "latent_channels": config.latent_channels,
        "layers_per_block": config.depth,
        "act_fn": "silu",
        "norm_eps": config.eps,
        "norm_num_groups": config.groups,
        "temporal_compression_ratio": 2**HALVINGS,
        "scaling_factor": config.scaling_factor,
        "invert_scale_latents": config.invert_scale_latents,
    }


AUTOENCODER_COGVIDEOX = Family("AutoencoderKLCogVideoX", AutoencoderKLCogVideoX, _read, _write, _keymap)
