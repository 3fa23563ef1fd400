"""The toy of the claim on control: one white digit that bounces in a black frame, and a small DiT in pixel space.

clip      8 frames of 16x16, with the exact flow of the digit; 1.0 to 1.8 pixels a frame; always the same ten digits
model     3 blocks of width 128, full attention over 16 tokens (patch 8x4x4), unconditional; 1.0 M parameters
base      trained with independent noise, kept in the cache; every arm starts from it
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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

FRAMES, SIDE, CLIPS, BATCH, STEPS = 8, 16, 2048, 32, 1000
SCALE = 2  # noise is warped at 32x32: what rounding loses is at most a quarter of a pixel
WORLD = DigitsConfig(
    height=SIDE,
    width=SIDE,
    frames=FRAMES,
    digits=1,
    colours=("white",),
    size=(0.48, 0.5),
    speed=(0.5, 0.9),
    hand=Hand(wobble=0.01, lean=0.0, turn=0.0, narrow=1.0, pen=(0.34, 0.36)),
)
MODEL = DiTConfig(
    patch=(8, 4, 4),
    dim=128,
    depth=3,
    heads=4,
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


def make(rngs) -> dict[str, DiT]:
    """The network."""
    return {"backbone": DiT(MODEL, rngs)}


def clips(count: int, seed: int) -> dict[str, np.ndarray]:
    """`video` uint8 `[N, 8, 16, 16, 3]`, its `flow` `[N, 7, 16, 16, 2]`, and the digit's `track` `[N, 8, 2]`."""
    made = [digits_clip(WORLD, index, seed) for index in range(count)]
    return {
        "video": np.stack([one.video for one in made]),
        "flow": np.stack([one.fields["flow"] for one in made]),
        "track": np.stack([one.fields["tracks"][:, 0] for one in made]),
    }


def train(noise: NoiseSource, data: dict[str, np.ndarray], steps: int, seed: int, start: Any = None) -> Fitted:
    """A model of that noise; `start` are weights to go on from."""
    objective = DenoisingObjective(PROCESS, noise=noise)
    trainer = Trainer(make, plain(objective, OPTIMIZER, steps), EMAConfig((0.98,)))
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

    def weights() -> dict[str, Any]:
        return jax.device_get(train(INDEPENDENT, clips(CLIPS, 77), STEPS, 0).params)

    return Base("digits_dit", settings, weights)


def sampler(networks: NetworkDefinitions, degradation: float):
    """`generate(params, count, key, {"flow": ...})`: clips in [-1, 1] from noise that follows a flow."""
    noise = {"kind": "warped", "scale": SCALE, "degradation": degradation}
    config = SampleConfig(steps=20, guidance=1.0, noise=noise)
    return make_generator(PROCESS, networks.merge, config, (FRAMES, SIDE, SIDE, 3), None)


def warped() -> Warped:
    """The noise of the method, degraded by a draw for each clip."""
    return Warped(scale=SCALE)
