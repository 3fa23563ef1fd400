"""AnimateDiff of diffusers: a UNet with motion modules (`UNetMotionModel`), and these by themselves (`MotionAdapter`).

Positions of the motion modules are constants of the state dict (`...pos_embed.pe`).
"""

from typing import Any

from vdm_jax.interop.families import unet_keys, unet_options
from vdm_jax.interop.families.family import Family, Options
from vdm_jax.interop.families.unet import check_unit, of_unit, ready, transformer_layers
from vdm_jax.interop.files.keymap import Buffer, KeyMap, Rule, under
from vdm_jax.models.unet import UNet, UNetConfig
from vdm_jax.models.unet.motion import MotionAdapter, MotionConfig, motion_modules


def _read(options: Options) -> UNetConfig:
    fields = unet_options.trunk(options, "Motion", text_dim=1280)
    levels = len(fields["widths"])
    for name in (
        "reverse_transformer_layers_per_block", "reverse_temporal_transformer_layers_per_block", "encoder_hid_dim",
        "encoder_hid_dim_type", "addition_embed_type", "reverse_motion_num_attention_heads",
    ):  # fmt: skip
        options.only(name, None)
    options.only("mid_block_layers", 1)
    options.ignore("addition_time_embed_dim", "projection_class_embeddings_input_dim")
    depth = unet_options.each(options, "transformer_layers_per_block", 1, levels)
    options.only("transformer_layers_per_mid_block", None, depth[-1], [depth[-1]])
    middle = unet_options.same(options, "temporal_transformer_layers_per_mid_block", 1)
    motion = {
        "motion_heads": unet_options.each(options, "motion_num_attention_heads", 8, levels),
        "motion_depth": unet_options.each(options, "temporal_transformer_layers_per_block", 1, levels),
        "motion_mid_depth": middle if options.take("use_motion_mid_block", True) else 0,
        "max_frames": options.take("motion_max_seq_length", 32),
    }
    heads = unet_options.each(options, "num_attention_heads", 8, levels)
    projection = "linear" if options.take("use_linear_projection", False) else "conv"
    fields |= unet_options.norms(options) | motion
    more = {"heads": heads, "projection": projection, "temporal": "motion"}
    return ready(options, fields, "transformer_layers_per_block", depth, **more)


def _write(config: UNetConfig) -> dict[str, Any]:
    check_unit(config, "motion", "UNetMotionModel")
    return unet_options.written(config, "Motion") | {
        "motion_max_seq_length": config.max_frames,
        "motion_num_attention_heads": unet_options.shortest(config.motion_heads),
        "norm_eps": config.eps,
        "norm_num_groups": config.groups,
        "num_attention_heads": unet_options.shortest(config.heads),
        "temporal_transformer_layers_per_block": unet_options.shortest(config.motion_depth),
        "temporal_transformer_layers_per_mid_block": config.motion_mid_depth or 1,
        "transformer_layers_per_block": transformer_layers(config),
        "use_linear_projection": config.projection == "linear",
        "use_motion_mid_block": config.motion_mid_depth > 0,
    }


def _buffers(adapter: MotionConfig) -> list[Buffer]:
    """The constants of all modules; `adapter` is what a UNet has of them."""
    levels, buffers = len(adapter.widths), []
    for level in range(levels):
        sizes = (adapter.depth[level], adapter.widths[level], adapter.max_frames)
        sides = (("down", level, adapter.layers[level]), ("up", levels - 1 - level, adapter.layers[level] + 1))
        for side, index, count in sides:
            for module in range(count):
                buffers += unet_keys.positions(f"{side}_blocks.{index}.motion_modules.{module}", *sizes)
    middle = (adapter.mid_depth, adapter.widths[-1], adapter.max_frames)
    return buffers + unet_keys.positions("mid_block.motion_modules.0", *middle)


def _keymap(config: UNetConfig) -> KeyMap:
    return KeyMap(unet_keys.trunk(config), _buffers(motion_modules(config, {})[0]))


def _read_adapter(options: Options) -> MotionConfig:
    widths = tuple(options.take("block_out_channels", unet_options.WIDTHS))
    options.only("conv_in_channels", None)
    options.only("motion_mid_block_layers_per_block", 1)
    middle = unet_options.same(options, "motion_transformer_layers_per_mid_block", 1)
    return MotionConfig(
        widths=widths,
        layers=unet_options.each(options, "motion_layers_per_block", 2, len(widths)),
        heads=unet_options.each(options, "motion_num_attention_heads", 8, len(widths)),
        depth=unet_options.each(options, "motion_transformer_layers_per_block", 1, len(widths)),
        mid_depth=middle if options.take("use_motion_mid_block", True) else 0,
        groups=options.take("motion_norm_num_groups", 32),
        max_frames=options.take("motion_max_seq_length", 32),
    )


def _write_adapter(config: MotionConfig) -> dict[str, Any]:
    return {
        "block_out_channels": list(config.widths),
        "motion_layers_per_block": unet_options.shortest(config.layers),
        "motion_max_seq_length": config.max_frames,
        "motion_mid_block_layers_per_block": 1,
        "motion_norm_num_groups": config.groups,
        "motion_num_attention_heads": unet_options.shortest(config.heads),
        "motion_transformer_layers_per_block": unet_options.shortest(config.depth),
        "motion_transformer_layers_per_mid_block": config.mid_depth or 1,
        "use_motion_mid_block": config.mid_depth > 0,
    }


def _modules(theirs: str, ours: str, count: int, depth: int) -> list[Rule]:
    names = [(f"{theirs}.motion_modules.{j}", f"{ours}.{j}.attention_time") for j in range(count if depth else 0)]
    return [rule for there, here in names for rule in under(there, here, unet_keys.temporal_transformer())]


def _adapter_keymap(config: MotionConfig) -> KeyMap:
    levels, rules = len(config.widths), _modules("mid_block", "mid", 1, config.mid_depth)
    for level in range(levels):
        count, depth, above = config.layers[level], config.depth[level], levels - 1 - level
        rules += _modules(f"down_blocks.{level}", f"down.{level}.layers", count, depth)
        rules += _modules(f"up_blocks.{above}", f"up.{above}.layers", count + 1, depth)
    return KeyMap(rules, _buffers(config))


UNET_MOTION = Family("UNetMotionModel", UNet, _read, _write, _keymap, fits=of_unit("motion"))
MOTION_ADAPTER = Family("MotionAdapter", MotionAdapter, _read_adapter, _write_adapter, _adapter_keymap)
