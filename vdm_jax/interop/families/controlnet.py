"""`ControlNetModel` of diffusers: the descending half of `UNet2DConditionModel` and a branch's own convolutions."""

from typing import Any

from vdm_jax.interop.families import unet_keys, unet_options
from vdm_jax.interop.families.family import Family, Options
from vdm_jax.interop.families.unet import read_pictures, write_pictures
from vdm_jax.interop.files.keymap import KeyMap, conv, under
from vdm_jax.models.unet.control import ControlConfig, ControlNet

_WIDTHS = (16, 32, 96, 256)
_OF_THE_OTHER_HALF = ("out_channels", "up_block_types")  # options that a branch does not have


def _read(options: Options) -> ControlConfig:
    options.only("controlnet_conditioning_channel_order", "rgb")
    options.only("global_pool_conditions", False)
    return ControlConfig(
        hint_channels=options.take("conditioning_channels", 3),
        hint_widths=tuple(options.take("conditioning_embedding_out_channels", _WIDTHS) or _WIDTHS),
        trunk=read_pictures(options, ascending=False),
    )


def _write(config: ControlConfig) -> dict[str, Any]:
    written = write_pictures(config.trunk)
    return {name: value for name, value in written.items() if name not in _OF_THE_OTHER_HALF} | {
        "layers_per_block": _one(config.trunk.layers),
        "conditioning_channels": config.hint_channels,
        "conditioning_embedding_out_channels": list(config.hint_widths),
    }


def _one(layers: tuple[int, ...]) -> int:
    if not isinstance(count := unet_options.shortest(layers), int):
        raise ValueError(f"layers: {layers}: ControlNetModel has as many at each level")
    return count


def _keymap(config: ControlConfig) -> KeyMap:
    trunk, convs = config.trunk, 2 * (len(config.hint_widths) - 1)
    kept = sum(trunk.layers) + len(trunk.widths)
    hint = [*conv("conv_in", "first"), *conv("conv_out", "last")]
    hint += [rule for index in range(convs) for rule in conv(f"blocks.{index}", f"convs.{index}")]
    rules = unet_keys.half(trunk) + under("controlnet_cond_embedding", "hint", hint)
    rules += [rule for i in range(kept) for rule in conv(f"controlnet_down_blocks.{i}", f"outs.{i}")]
    return KeyMap([*rules, *conv("controlnet_mid_block", "mid_out")])


CONTROLNET = Family("ControlNetModel", ControlNet, _read, _write, _keymap)
