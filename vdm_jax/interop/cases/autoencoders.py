"""Tiny autoencoders: a clip to its posterior, and other latents to a clip, one after the other."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from vdm_jax.interop.families.autoencoders_cogvideox import AUTOENCODER_COGVIDEOX
from vdm_jax.interop.families.autoencoders_kl import AUTOENCODER_KL, AUTOENCODER_TEMPORAL_DECODER
from vdm_jax.interop.families.autoencoders_wan import AUTOENCODER_WAN
from vdm_jax.interop.families.family import Family
from vdm_jax.interop.parity import Case

Shape = tuple[int, ...]

_KL = {
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4,
}  # fmt: skip
_TEMPORAL = {"down_block_types": ["DownEncoderBlock2D"], "block_out_channels": [64], "layers_per_block": 2}
_WAN = {
    "base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [False, True],
    "scale_factor_temporal": 2, "scale_factor_spatial": 4,
    "latents_mean": [0.5, -0.5, 0.0, 0.1], "latents_std": [2.0, 1.5, 2.5, 1.0],
}  # fmt: skip
_WAN22 = {
    **_WAN, "decoder_base_dim": 12, "is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2,
    "scale_factor_spatial": 8,
}  # fmt: skip
_COGVIDEOX = {
    "down_block_types": ["CogVideoXDownBlock3D"] * 3, "up_block_types": ["CogVideoXUpBlock3D"] * 3,
    "block_out_channels": [8, 8, 16], "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4,
}  # fmt: skip


def _ours(network: Any, inputs: Mapping[str, Any]) -> Any:
    posterior = network.encode(inputs["clip"])
    clip = network.decode(inputs["latents"])
    return jnp.concatenate([part.reshape(-1) for part in (posterior.mean, posterior.logvar, clip)])


def _joined(posterior: Any, clip: Any, channels_last: Callable[[Any], Any]) -> Any:
    import torch  # only where a certificate is made

    return torch.cat([channels_last(part).flatten() for part in (posterior.mean, posterior.logvar, clip)])


def _clips(module: Any, inputs: Mapping[str, Any]) -> Any:
    clip, latents = (inputs[name].permute(0, 4, 1, 2, 3) for name in ("clip", "latents"))
    posterior = module.encode(clip).latent_dist
    return _joined(posterior, module.decode(latents).sample, lambda x: x.permute(0, 2, 3, 4, 1))


def _pictures(module: Any, inputs: Mapping[str, Any]) -> Any:
    clip, latents = (inputs[name].flatten(0, 1).permute(0, 3, 1, 2) for name in ("clip", "latents"))
    frames = {"num_frames": inputs["latents"].shape[1]} if hasattr(module.decoder, "time_conv_out") else {}
    posterior = module.encode(clip).latent_dist
    return _joined(posterior, module.decode(latents, **frames).sample, lambda x: x.permute(0, 2, 3, 1))


def _case(name: str, family: Family, published: Mapping[str, Any], clip: Shape, latents: Shape) -> Case:
    theirs = _pictures if family in (AUTOENCODER_KL, AUTOENCODER_TEMPORAL_DECODER) else _clips
    return Case(name, family, published, {"clip": clip, "latents": latents}, _ours, theirs)


CASES = (
    _case("frames", AUTOENCODER_KL, _KL, (2, 2, 4, 6, 3), (2, 2, 2, 3, 4)),
    _case("clip", AUTOENCODER_TEMPORAL_DECODER, _TEMPORAL, (1, 2, 4, 6, 3), (1, 3, 4, 6, 4)),
    _case("2.1", AUTOENCODER_WAN, _WAN, (1, 9, 8, 12, 3), (1, 3, 2, 3, 4)),
    _case("2.2", AUTOENCODER_WAN, _WAN22, (1, 9, 16, 8, 3), (1, 3, 2, 1, 4)),
    _case("9 frames", AUTOENCODER_COGVIDEOX, _COGVIDEOX, (1, 9, 8, 12, 3), (1, 3, 2, 3, 4)),
)
