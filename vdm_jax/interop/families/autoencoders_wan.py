"""`AutoencoderKLWan` of diffusers: Wan 2.1, whose encoder is one list of blocks, and Wan 2.2."""

from typing import Any

from vdm_jax.interop.families.autoencoders_kl import numbers
from vdm_jax.interop.families.family import Family, Options
from vdm_jax.interop.files.keymap import LINEAR, KeyMap, Layout, Rule, as_conv, conv, under
from vdm_jax.models.autoencoders.wan import AutoencoderKLWan, WanConfig

# The published defaults, which files may leave out.
_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


def _gamma(theirs: str, ours: str, ones: int) -> list[Rule]:
    """An RMS norm, whose scale has dims of 1 behind it there."""
    layout = Layout(lambda x: x.reshape(-1, *(1,) * ones), lambda x, shape: x.reshape(shape))
    return [Rule(f"{theirs}.gamma", f"{ours}.scale", layout)]


def _causal(theirs: str, ours: str) -> list[Rule]:
    return conv(theirs, f"{ours}.conv")


def _block(shortcut: bool) -> list[Rule]:
    rules = _gamma("norm1", "norm1", 3) + _causal("conv1", "conv1") + _gamma("norm2", "norm2", 3)
    rules += _causal("conv2", "conv2")
    return rules + conv("conv_shortcut", "shortcut") if shortcut else rules


def _attention() -> list[Rule]:
    """Its projections are convolutions there, that of queries, keys and values one."""
    rules = _gamma("norm", "norm", 2)
    for theirs, ours in (("to_qkv", "attention.qkv"), ("proj", "attention.out")):
        bias = Layout(lambda x: x.reshape(-1), lambda x, shape: x.reshape(shape))
        rules += [Rule(f"{theirs}.weight", f"{ours}.kernel", as_conv(LINEAR, 2))]
        rules += [Rule(f"{theirs}.bias", f"{ours}.bias", bias)]
    return rules


def _ends() -> list[Rule]:
    rules = _causal("conv_in", "conv_in") + _gamma("norm_out", "norm", 3) + _causal("conv_out", "conv_out")
    middle = under("resnets.0", "before", _block(False)) + under("resnets.1", "after", _block(False))
    return rules + under("mid_block", "middle", middle + under("attentions.0", "attention", _attention()))


def _resample(time: bool) -> list[Rule]:
    return conv("resample.1", "space.conv") + (conv("time_conv", "time") if time else [])


def _encoder(config: WanConfig) -> list[Rule]:
    rules, number = _ends(), 0  # of the blocks of 2.1, all in one list
    before = 1
    for i, width in enumerate(config.multipliers):
        blocks = [(f"blocks.{j}", f"resnets.{j}", _block(j == 0 and before != width)) for j in range(config.depth)]
        if i < len(config.halve_time):
            blocks.append(("shrink", "downsampler", _resample(config.halve_time[i])))
        for ours, theirs, part in blocks:
            name = f"down_blocks.{i}.{theirs}" if config.shortcuts else f"down_blocks.{number}"
            rules += under(name, f"levels.{i}.{ours}", part)
            number += 1
        before = width
    return rules


def _decoder(config: WanConfig) -> list[Rule]:
    rules, way = _ends(), "upsampler" if config.shortcuts else "upsamplers.0"
    multipliers, times = config.multipliers[::-1], config.halve_time[::-1]
    before = float(multipliers[0])
    for i, width in enumerate(multipliers):
        theirs, ours = f"up_blocks.{i}", f"levels.{i}"
        for j in range(config.depth + 1):
            rules += under(f"{theirs}.resnets.{j}", f"{ours}.blocks.{j}", _block(j == 0 and before != width))
        if i < len(times):
            rules += under(f"{theirs}.{way}", f"{ours}.grow", _resample(times[i]))
        before = width if config.shortcuts else width / 2
    return rules


def _keymap(config: WanConfig) -> KeyMap:
    rules = under("encoder", "encoder", _encoder(config)) + conv("quant_conv", "quant")
    return KeyMap(rules + conv("post_quant_conv", "post_quant") + under("decoder", "decoder", _decoder(config)))


def _read(options: Options) -> WanConfig:
    dim = options.take("base_dim", 96)
    patch = options.take("patch_size", None) or 1
    channels = options.take("in_channels", 3)
    if channels % patch**2:
        raise ValueError(f"{options.published}: in_channels={channels} must divide by patch_size ** 2 = {patch**2}")
    options.only("out_channels", channels)
    options.only("attn_scales", [], ())
    options.ignore("dropout", "clip_output")
    config = WanConfig(
        channels=channels // patch**2,
        latent_channels=options.take("z_dim", 16),
        dim=dim,
        decoder_dim=options.take("decoder_base_dim", None) or dim,
        multipliers=tuple(options.take("dim_mult", (1, 2, 4, 4))),
        halve_time=tuple(options.take("temperal_downsample", (False, True, True))),
        depth=options.take("num_res_blocks", 2),
        patch=patch,
        shortcuts=options.take("is_residual", False),
        latents_mean=numbers(options.take("latents_mean", _MEAN)),
        latents_std=numbers(options.take("latents_std", _STD)),
    )
    options.only("scale_factor_temporal", config.grid.frames)
    options.only("scale_factor_spatial", config.grid.side)
    return config


def _write(config: WanConfig) -> dict[str, Any]:
    channels = config.channels * config.patch**2
    return {
        "base_dim": config.dim,
        "decoder_base_dim": config.decoder_dim,
        "z_dim": config.latent_channels,
        "dim_mult": list(config.multipliers),
        "num_res_blocks": config.depth,
        "attn_scales": [],
        "temperal_downsample": list(config.halve_time),
        "dropout": 0.0,
        "latents_mean": list(config.latents_mean),
        "latents_std": list(config.latents_std),
        "is_residual": config.shortcuts,
        "in_channels": channels,
        "out_channels": channels,
        "patch_size": config.patch if config.patch > 1 else None,
        "scale_factor_temporal": config.grid.frames,
        "scale_factor_spatial": config.grid.side,
    }


AUTOENCODER_WAN = Family("AutoencoderKLWan", AutoencoderKLWan, _read, _write, _keymap)
