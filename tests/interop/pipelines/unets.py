"""Tiny parts that the pipelines of the UNets are put together from.

One level, attention in the middle alone, so that little is compiled; what larger ones compute is compared network by
network elsewhere.
"""

from typing import Any

import numpy as np

from tests.interop.pipelines.oracle import network, tokenizer
from vdm_jax.interop.families.autoencoders_kl import AUTOENCODER_KL
from vdm_jax.interop.families.encoders import CLIP_TEXT

FRAMES, SIDE, LATENTS = 3, 16, (3, 8, 8, 4)
PROMPT, NEGATIVE = "a red square moves left", "blurred"
TRUNK = {"block_out_channels": [32], "layers_per_block": 1, "cross_attention_dim": 16, "sample_size": 8}
GROUPS = {"norm_num_groups": 8}
_KL = {
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, "scaling_factor": 0.3,
}  # fmt: skip
_TEXT = {
    "vocab_size": 12, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 9, "bos_token_id": 3, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
HERE = {"prompts": (PROMPT,), "negative": NEGATIVE, "guidance": 3.0}
THERE = {"prompt": [PROMPT], "negative_prompt": [NEGATIVE], "guidance_scale": 3.0}


def latent_diffusion() -> dict[str, Any]:
    """CLIP, its tokenizer, and the autoencoder of pictures."""
    text, vae = network(CLIP_TEXT, _TEXT, 1, 0.3), network(AUTOENCODER_KL, _KL, 2)
    return {"text_encoder": text, "tokenizer": tokenizer(9, start=True), "vae": vae}


class Drawn:
    """What a `torch.Generator` gives, in the order in which a pipeline asks it."""

    def __init__(self, seed: int = 5):
        import torch

        self.generator = torch.Generator().manual_seed(seed)
        self._again = torch.Generator().manual_seed(seed)

    def pictures(self, count: int, height: int, width: int, channels: int = 4) -> np.ndarray:
        """`[N, H, W, C]`, drawn with channels in front."""
        return self._take(count, channels, height, width)

    def clips(self, frames: int, height: int, width: int, channels: int = 4) -> np.ndarray:
        """`[1, T, H, W, C]`, drawn with channels in front of frames."""
        return self._take(1, channels, frames, height, width)

    def _take(self, *shape: int) -> np.ndarray:
        import torch

        return torch.randn(shape, generator=self._again).movedim(1, -1).numpy()
