"""The toy of the claim on control: one white digit that bounces in a black frame, and a small DiT on latents of it.

clip      8 frames of 16x16 with the exact flow of the digit, averaged to a latent of 8x8; 1.4 to 1.9 pixels a frame
model     3 blocks of width 64, full attention over 16 tokens (patch 8x2x2), unconditional; 0.3 M parameters
base      trained with independent noise, kept in the cache; every arm starts from it
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from data_pipelines.loading.shrinking import averaged
from data_pipelines.worlds.digits.world import DigitsConfig
from data_pipelines.worlds.digits.world import clip as digits_clip
from data_pipelines.worlds.drawing.glyphs import Hand
from vdm_jax.config import to_dict
from vdm_jax.diffusion.configuration import process_from
from vdm_jax.evaluation.claims import Base
from vdm_jax.models.dit import DiT, DiTConfig
from vdm_jax.objectives.denoising import DenoisingObjective
from vdm_jax.sampling import SampleConfig, make_generator
from vdm_jax.sampling.noise import INDEPENDENT, NoiseSource, Warped
from vdm_jax.training.ema import EMAConfig
from vdm_jax.training.fit import Fitted, Trainer, batches
from vdm_jax.training.optimizer import OptimizerConfig
from vdm_jax.training.recipe import plain
from vdm_jax.training.state import NetworkDefinitions

FRAMES, SIDE, CLIPS, BATCH, STEPS = 8, 8, 3000, 64, 2500
WARPED = Warped(scale=2)  # on the grid of the clips, 16x16
WORLD = DigitsConfig(
    height=2 * SIDE,
    width=2 * SIDE,
    frames=FRAMES,
    digits=1,
    colours=("white",),
    size=(0.48, 0.5),
    speed=(0.7, 0.95),
    hand=Hand(wobble=0.0, lean=0.0, turn=0.0, narrow=1.0, pen=(0.4, 0.42)),  # always the same ten digits
)
MODEL = DiTConfig(
    channels=1,
    patch=(FRAMES, 2, 2),
    dim=64,
    depth=3,
    heads=2,
    mlp="relu2",
    adaln="per_block",
    rope=False,
    positions="learned",
    grid=(1, 4, 4),
)
PROCESS = process_from(
    {
        "kind": "rectified_flow",
        "prediction": "x0",
        "times": {"kind": "logit_normal", "mean": 0.4, "std": 1.3},
        "weighting": {"kind": "uniform", "space": "x0"},
    }
)
OPTIMIZER = OptimizerConfig("muon", learning_rate=3e-3, schedule="wsd", warmup=30, decay_fraction=0.4, weight_decay=0)


def clips(count: int, seed: int) -> dict[str, np.ndarray]:
    """`video` float32 `[N, 8, 8, 8, 1]`, its `flow` `[N, 7, 16, 16, 2]`, and the digit's `track` `[N, 8, 2]`."""
    made = [digits_clip(WORLD, index, seed) for index in range(count)]
    return {
        "video": averaged(np.stack([one.video[..., :1] for one in made]), 2) / 127.5 - 1.0,
        "flow": np.stack([one.fields["flow"] for one in made]),
        "track": np.stack([one.fields["tracks"][:, 0] for one in made]),
    }


def train(noise: NoiseSource, data: dict[str, np.ndarray], steps: int, seed: int, start: Any = None) -> Fitted:
    """A model of that noise; `start` are weights to go on from."""
    objective = DenoisingObjective(PROCESS, noise=noise)
    trainer = Trainer(
        lambda rngs: {"backbone": DiT(MODEL, rngs)}, plain(objective, OPTIMIZER, steps), EMAConfig((0.99,))
    )
    arrays = {name: jnp.asarray(data[name]) for name in ("video", *noise.reads)}
    return trainer.run(batches(arrays, BATCH, seed), seed, start)


def base() -> Base:
    """The model that every arm starts from."""
    settings = {
        "world": to_dict(WORLD),
        "model": to_dict(MODEL),
        "process": repr(PROCESS),
        "optimizer": to_dict(OPTIMIZER),
        "steps": [STEPS, BATCH, CLIPS],
    }
    return Base("digits_dit", settings, lambda: train(INDEPENDENT, clips(CLIPS, 77), STEPS, 0).params)


def sampler(networks: NetworkDefinitions, degradation: float):
    """`generate(params, count, key, {"flow": ...})`: latents from noise that follows a flow."""
    noise = {"kind": "warped", "scale": WARPED.scale, "degradation": degradation}
    config = SampleConfig(steps=20, guidance=1.0, noise=noise)
    return make_generator(PROCESS, networks.merge, config, (FRAMES, SIDE, SIDE, 1), None)
