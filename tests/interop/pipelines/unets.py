"""Tiny parts that the pipelines of the UNets are put together from.

One level, attention in the middle alone, so that little is compiled; what larger ones compute is compared network by
network elsewhere.
"""

from typing import Any

import numpy as np

from tests.interop.pipelines.networks import clip, pictures

FRAMES, SIDE, LATENTS = 3, 16, (3, 8, 8, 4)
PROMPT, NEGATIVE = "a red square moves left", "blurred"
TRUNK = {"block_out_channels": [32], "layers_per_block": 1, "cross_attention_dim": 16, "sample_size": 8}
GROUPS = {"norm_num_groups": 8}
HERE = {"prompts": (PROMPT,), "negative": NEGATIVE, "guidance": 3.0}
THERE = {"prompt": [PROMPT], "negative_prompt": [NEGATIVE], "guidance_scale": 3.0}


def latent_diffusion() -> dict[str, Any]:
    """CLIP, its tokenizer, and the autoencoder of pictures."""
    return {**clip(), **pictures()}


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

    def permutations(self, count: int, size: int) -> np.ndarray:
        """`[N, size]`, one after the other."""
        import torch

        return np.stack([torch.randperm(size, generator=self._again).numpy() for _ in range(count)])

    def _take(self, *shape: int) -> np.ndarray:
        import torch

        return torch.randn(shape, generator=self._again).movedim(1, -1).numpy()
