"""A tiny Wan pipeline: its sizes, its parts, and one request as it is made there and here."""

from typing import Any

from tests.interop.pipelines.networks import t5
from tests.interop.pipelines.oracle import network, scheduler
from vdm_jax.interop.families.autoencoders_wan import AUTOENCODER_WAN
from vdm_jax.interop.families.encoders import UMT5_ENCODER
from vdm_jax.interop.families.wan import WAN

TRANSFORMER = {
    "patch_size": [1, 2, 2], "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4,
    "text_dim": 16, "freq_dim": 32, "ffn_dim": 48, "num_layers": 2,
}  # fmt: skip
VAE = {
    "base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [False, True],
    "scale_factor_temporal": 2, "scale_factor_spatial": 4,
    "latents_mean": [0.5, -0.5, 0.0, 0.1], "latents_std": [2.0, 1.5, 2.5, 1.0],
}  # fmt: skip
CLIP = {
    "hidden_size": 20, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 10,
    "image_size": 16, "patch_size": 8, "hidden_act": "gelu",
}  # fmt: skip
FRAMES, HEIGHT, WIDTH, STEPS = 5, 16, 32, 4
SHAPE = (3, 4, 8, 4)
PROMPT, NEGATIVE = "a red square moves left", "blurred"
SIZE = {"height": HEIGHT, "width": WIDTH}
THERE = {**SIZE, "num_frames": FRAMES, "num_inference_steps": STEPS, "prompt": [PROMPT],
          "negative_prompt": [NEGATIVE], "guidance_scale": 3.0}  # fmt: skip
HERE = {**SIZE, "frames": FRAMES, "steps": STEPS, "prompts": (PROMPT,), "negative": NEGATIVE, "guidance": 3.0}


def parts() -> dict[str, Any]:
    """What all pipelines of Wan have."""
    return {
        **t5(UMT5_ENCODER),
        "vae": network(AUTOENCODER_WAN, VAE, 2),
        "transformer": network(WAN, TRANSFORMER, 3, 0.3),
        "scheduler": scheduler("wan_unipc_480p"),
    }
