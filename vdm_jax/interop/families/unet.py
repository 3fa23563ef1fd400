"""The UNets of diffusers: of pictures (Stable Diffusion), ModelScope and ZeroScope, Stable Video Diffusion.

| class                              | number of heads of a level of C channels            | temporal unit |
| ---------------------------------- | --------------------------------------------------- | ------------- |
| `UNet2DConditionModel`             | `attention_head_dim` (so called by mistake)         | `none`        |
| `UNet3DConditionModel`             | C / `attention_head_dim`                            | `convolution` |
| `UNetSpatioTemporalConditionModel` | `num_attention_heads`                               | `mixed`       |

`UNET` is the project's own, of any options, for `torch_modules/unet.py`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from vdm_jax.interop.families import unet_keys, unet_options
from vdm_jax.interop.families.family import Family, Options, own_family
from vdm_jax.interop.files.keymap import KeyMap
from vdm_jax.models.unet import UNet, UNetConfig

SVD_SCALARS = ("fps", "motion", "augmentation")  # what `added_time_ids` holds, in this order
SVD_EPS = {True: 1e-6, False: 1e-5}  # on the way down, with attention and without; up it is always the first


def _keymap(config: UNetConfig) -> KeyMap:
    return KeyMap(unet_keys.trunk(config))


def ready(options: Options, fields: dict[str, Any], name: str, depth: tuple[int, ...], **more: Any) -> UNetConfig:
    """The config of these fields; what does not make a network is told as an error of the class.

    Raises:
      ValueError: names the class.
    """
    attention = fields.pop("attention")
    try:
        return UNetConfig(**fields, depth=unet_options.depths(attention, depth), mid_depth=depth[-1], **more)
    except ValueError as error:
        raise ValueError(f"{options.published}: {error} ({name}={depth})") from None


def transformer_layers(config: UNetConfig) -> list[int] | int:
    """`transformer_layers_per_block`, whose last entry also counts for the middle.

    Raises:
      ValueError: no published class has this.
    """
    if config.depth[-1] not in (0, config.mid_depth):
        raise ValueError(f"mid_depth: {config.mid_depth} is not that of the coarsest level, depth={config.depth}")
    return unet_options.shortest((*(d or config.mid_depth for d in config.depth[:-1]), config.mid_depth))


def read_pictures(options: Options, ascending: bool = True) -> UNetConfig:
    """Options of `UNet2DConditionModel`; without its ascending half, of `ControlNetModel`."""
    fields = unet_options.trunk(options, "2D", text_dim=1280, ascending=ascending)
    levels = len(fields["widths"])
    options.only("center_input_sample", False)
    options.only("flip_sin_to_cos", True)
    options.only("freq_shift", 0)
    options.only("mid_block_type", "UNetMidBlock2DCrossAttn")
    options.only("dual_cross_attention", False)
    options.only("resnet_time_scale_shift", "default")
    options.only("resnet_skip_time_act", False)
    options.only("resnet_out_scale_factor", 1.0)
    options.only("time_embedding_type", "positional")
    options.only("attention_type", "default")
    for name in ("conv_in_kernel", "conv_out_kernel"):
        options.only(name, 3)
    for name in ("only_cross_attention", "mid_block_only_cross_attention", "class_embeddings_concat"):
        options.only(name, False, None)
    for name in (
        "num_attention_heads", "reverse_transformer_layers_per_block", "encoder_hid_dim", "encoder_hid_dim_type",
        "class_embed_type", "addition_embed_type", "num_class_embeds", "time_embedding_dim", "time_embedding_act_fn",
        "timestep_post_act", "cross_attention_norm",
    ):  # fmt: skip
        options.only(name, None)
    # Those of embeddings that are not there, training, and a precision that is always had here.
    options.ignore("addition_time_embed_dim", "projection_class_embeddings_input_dim", "addition_embed_type_num_heads")
    options.ignore("dropout", "upcast_attention")
    heads = unet_options.each(options, "attention_head_dim", 8, levels)
    depth = unet_options.each(options, "transformer_layers_per_block", 1, levels)
    projection = "linear" if options.take("use_linear_projection", False) else "conv"
    fields |= unet_options.norms(options)
    return ready(options, fields, "transformer_layers_per_block", depth, heads=heads, projection=projection)


def write_pictures(config: UNetConfig) -> dict[str, Any]:
    """The inverse of `read_pictures`.

    Raises:
      ValueError: no published class has these options.
    """
    check_unit(config, "none", "UNet2DConditionModel")
    return unet_options.written(config, "2D") | {
        "attention_head_dim": unet_options.shortest(config.heads),
        "norm_eps": config.eps,
        "norm_num_groups": config.groups,
        "transformer_layers_per_block": transformer_layers(config),
        "use_linear_projection": config.projection == "linear",
    }


def check_unit(config: UNetConfig, temporal: str, published: str) -> None:
    """Raises ValueError unless the published class is one of this temporal unit and of one `eps`."""
    if config.temporal != temporal:
        raise ValueError(f"temporal: {config.temporal!r} is not what {published} has, {temporal!r}")
    if temporal != "mixed" and (config.scalars or set(config.eps_down + config.eps_up) - {config.eps}):
        raise ValueError(f"scalars, eps_down, eps_up: {published} has none")


def _read_modelscope(options: Options) -> UNetConfig:
    fields = unet_options.trunk(options, "3D", text_dim=1024)
    options.only("num_attention_heads", None)
    head_dim, widths = unet_options.same(options, "attention_head_dim", 64), fields["widths"]
    if odd := [width for width in widths if width % head_dim]:
        raise ValueError(f"{options.published}: attention_head_dim={head_dim} does not divide {odd[0]} channels")
    heads = tuple(width // head_dim for width in widths)
    fields |= unet_options.norms(options)
    more = {"heads": heads, "projection": "linear", "temporal": "convolution"}
    return ready(options, fields, "transformer_layers_per_block", (1,) * len(widths), **more)


def _write_modelscope(config: UNetConfig) -> dict[str, Any]:
    check_unit(config, "convolution", "UNet3DConditionModel")
    head_dims = {width // heads for width, heads in zip(config.widths, config.heads)}
    if len(head_dims) > 1 or transformer_layers(config) != 1 or config.projection != "linear":
        raise ValueError(
            "heads, depth, projection: UNet3DConditionModel has heads of one size, blocks of depth 1 and linear ends"
        )
    return unet_options.written(config, "3D") | {
        "attention_head_dim": head_dims.pop(),
        "norm_eps": config.eps,
        "norm_num_groups": config.groups,
    }


def _read_svd(options: Options) -> UNetConfig:
    fields = unet_options.trunk(options, "SpatioTemporal", text_dim=1024, channels=(8, 4))
    attention = fields["attention"]
    scalar_dim = options.take("addition_time_embed_dim", 256)
    numbers = options.take("projection_class_embeddings_input_dim", 768)
    if numbers != len(SVD_SCALARS) * scalar_dim:
        raise ValueError(
            f"{options.published}: projection_class_embeddings_input_dim={numbers} is not supported (only"
            f" {len(SVD_SCALARS)} x addition_time_embed_dim={scalar_dim}: {', '.join(SVD_SCALARS)})"
        )
    options.ignore("num_frames")
    more = {
        "heads": unet_options.each(options, "num_attention_heads", (5, 10, 20, 20), len(attention)),
        "projection": "linear",
        "temporal": "mixed",
        "scalars": SVD_SCALARS,
        "scalar_dim": scalar_dim,
        "eps_down": tuple(SVD_EPS[has] for has in attention),
        "eps_up": (SVD_EPS[True],) * len(attention),
    }
    depth = unet_options.each(options, "transformer_layers_per_block", 1, len(attention))
    return ready(options, fields, "transformer_layers_per_block", depth, **more)


def _write_svd(config: UNetConfig) -> dict[str, Any]:
    check_unit(config, "mixed", "UNetSpatioTemporalConditionModel")
    eps = tuple(SVD_EPS[depth > 0] for depth in config.depth)
    found = (config.scalars, config.eps_down, config.eps_up, config.projection, config.groups, config.eps)
    wanted = (SVD_SCALARS, eps, (SVD_EPS[True],) * len(eps), "linear", 32, SVD_EPS[False])
    if found != wanted:
        raise ValueError(
            "scalars, eps_down, eps_up, projection, groups, eps: UNetSpatioTemporalConditionModel has only"
            f" {wanted}, not {found}"
        )
    return unet_options.written(config, "SpatioTemporal") | {
        "addition_time_embed_dim": config.scalar_dim,
        "num_attention_heads": unet_options.shortest(config.heads),
        "projection_class_embeddings_input_dim": len(config.scalars) * config.scalar_dim,
        "transformer_layers_per_block": transformer_layers(config),
    }


def of_unit(temporal: str) -> Callable[[UNetConfig], bool]:
    """What a published class fits: the UNets with this temporal unit."""
    return lambda config: config.temporal == temporal


def _own_keymap(config: UNetConfig) -> KeyMap:
    """Names of diffusers; the ends of transformers are linear layers, which those of 1 x 1 pixels are as well."""
    return _keymap(dataclasses.replace(config, projection="linear"))


UNET = own_family(UNetConfig, UNet, _own_keymap)
UNET_2D = Family("UNet2DConditionModel", UNet, read_pictures, write_pictures, _keymap, fits=of_unit("none"))
UNET_3D = Family(
    "UNet3DConditionModel", UNet, _read_modelscope, _write_modelscope, _keymap, fits=of_unit("convolution")
)
UNET_SPATIO_TEMPORAL = Family(
    "UNetSpatioTemporalConditionModel", UNet, _read_svd, _write_svd, _keymap, fits=of_unit("mixed")
)
