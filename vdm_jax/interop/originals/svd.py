"""Stable Video Diffusion (2311.15127) in the single file of its authors: UNet, autoencoder, encoder of the picture.

Parts of the UNet hold their counterparts over time as `time_stack`.  Of the two autoencoders in the file the published
one has the encoder that conditions see and the decoder over time.
"""

from typing import Any

from vdm_jax.interop.originals.latent_diffusion import (
    autoencoder_config,
    autoencoder_form,
    autoencoder_name,
    levels_of,
)
from vdm_jax.interop.originals.layout import Original, Shapes, count
from vdm_jax.interop.originals.numbered import RES, Numbering
from vdm_jax.interop.originals.open_clip import tower_form, tower_name, vision_config
from vdm_jax.interop.originals.whole import Whole

_HEAD_DIM = 64  # of every published file
_UNET = Numbering(
    {"resnets": 0, "attentions": 1},
    {
        "resnets": {"temporal_res_block": "time_stack", **RES},
        "attentions": {
            "temporal_transformer_blocks": "time_stack",
            "time_pos_embed.linear_1": "time_pos_embed.0",
            "time_pos_embed.linear_2": "time_pos_embed.2",
        },
    },
    "down_blocks.0.resnets.{i}.spatial_res_block.conv1.weight",
    {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"},
)


def _name(name: str, shapes: Shapes) -> str:
    return _UNET.rename(name.replace(".spatial_res_block", ""), shapes)


def _config(shapes: Shapes) -> dict[str, Any]:
    firsts = _UNET.firsts(shapes)
    widths = [shapes[f"input_blocks.{i}.0.out_layers.3.weight"][0] for i in firsts]
    attended = [f"input_blocks.{i}.1.norm.weight" in shapes for i in firsts]
    text = next((i for i, has in zip(firsts, attended) if has), 1)
    block = f"input_blocks.{text}.1.transformer_blocks"
    numbers = shapes["label_emb.0.0.weight"][1]
    return {
        "_class_name": "UNetSpatioTemporalConditionModel",
        "addition_time_embed_dim": numbers // 3,
        "block_out_channels": widths,
        "cross_attention_dim": shapes[f"{block}.0.attn2.to_k.weight"][1],
        "down_block_types": [f"{'CrossAttn' if has else ''}DownBlockSpatioTemporal" for has in attended],
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "layers_per_block": _UNET.layers(shapes),
        "num_attention_heads": [width // _HEAD_DIM for width in widths],
        "num_frames": 25,
        "out_channels": shapes["out.2.weight"][0],
        "projection_class_embeddings_input_dim": numbers,
        "transformer_layers_per_block": count(shapes, block + ".{i}.norm1.weight"),
        "up_block_types": [f"{'CrossAttn' if has else ''}UpBlockSpatioTemporal" for has in attended[::-1]],
    }


SVD_UNET = Original(
    "the UNet of Stable Video Diffusion of its authors",
    "unet",
    ("label_emb.0.0.weight", "input_blocks.0.0.weight", "input_blocks.1.0.time_stack.in_layers.2.weight"),
    _config,
    _name,
)

_ENCODER, _DECODER, _VISION = (
    "conditioner.embedders.3.encoder.", "first_stage_model.", "conditioner.embedders.0.open_clip.model.visual.",
)  # fmt: skip
_TOWER_HEAD_DIM = 80  # of ViT-H


def _autoencoder_name(name: str, shapes: Shapes) -> str:
    side = _DECODER if name.startswith("decoder.") else _ENCODER
    return side + autoencoder_name(name, levels_of(shapes, _ENCODER))


def _autoencoder_config(shapes: Shapes) -> dict[str, Any]:
    told = {"_class_name": "AutoencoderKLTemporalDecoder", "force_upcast": True, "sample_size": 768}
    return told | autoencoder_config(shapes, _ENCODER)


SVD_AUTOENCODER = Original(
    "the autoencoder of Stable Video Diffusion of its authors",
    "vae",
    (f"{_DECODER}decoder.conv_out.time_mix_conv.weight", f"{_ENCODER}quant_conv.weight"),
    _autoencoder_config,
    _autoencoder_name,
    lambda name: not name.startswith((f"{_DECODER}decoder.", f"{_ENCODER}encoder.", f"{_ENCODER}quant_conv.")),
    autoencoder_form,
)
SVD_IMAGE_ENCODER = Original(
    "the encoder of pictures of Stable Video Diffusion of its authors",
    "image_encoder",
    (f"{_VISION}proj", f"{_VISION}conv1.weight"),
    lambda shapes: vision_config(shapes, _VISION, _TOWER_HEAD_DIM),
    lambda name, shapes: _VISION + tower_name(name),
    lambda name: not name.startswith(_VISION),
    tower_form,
)
_SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "final_sigmas_type": "zero",
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}
_PICTURES = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 224},
}
SVD = Whole(
    "Stable Video Diffusion of its authors",
    "StableVideoDiffusionPipeline",
    (SVD_IMAGE_ENCODER, SVD_UNET, SVD_AUTOENCODER),
    {
        "feature_extractor": ("transformers", "preprocessor_config.json", _PICTURES),
        "scheduler": ("diffusers", "scheduler_config.json", _SCHEDULER),
    },
    # Published under these names; nothing in them says how many frames they were trained with.
    by_name=lambda stem: {"unet": {"num_frames": 14 if stem in ("svd", "svd_image_decoder") else 25}},
)
