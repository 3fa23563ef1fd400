import jax
import numpy as np

from data_pipelines.worlds.sprites import world as sprites
from data_pipelines.worlds.sprites.world import SpritesConfig
from vdm_jax.media.grid import to_uint8
from vdm_jax.sharding import place_batch
from vdm_jax.training.run import assemble
from vdm_jax.training.run_config import run_config_from
from vdm_jax.training.state import weights
from vdm_jax.training.step import make_train_step

STEPS, COPIES = 700, 4
CONFIG = {
    "process": {"kind": "rectified_flow", "prediction": "x0", "weighting": {"kind": "uniform", "space": "velocity"}},
    "model": {
        "kind": "dit",
        "patch": (2, 4, 4),
        "dim": 48,
        "depth": 2,
        "heads": 2,
        "mlp": "relu2",
        "adaln": "per_block",
        "positions": "learned",
        "grid": (2, 4, 4),
    },
    "data": {"frames": 4, "height": 16, "width": 16},
    "train": {"steps": STEPS, "batch_size": COPIES},
    "ema": {"decays": (0.95,)},
    "optimizer": {"learning_rate": 4e-3, "schedule": "cosine", "warmup": 10},
    "mesh": {"data": 1},
    "sample": {"steps": 10, "guidance": 1.0, "ema": 0.95},
}


def psnr(a, b):
    """Peak signal-to-noise ratio of uint8 pictures, in dB."""
    return 10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b) ** 2))


def test_a_model_trained_on_one_clip_reproduces_it():
    clip = sprites.clip(SpritesConfig(frames=4), 0).video
    run = assemble(run_config_from(CONFIG), devices=jax.devices()[:1])
    step, state = make_train_step(run.plan, run.step_config(), 0), run.plan.init(0)
    batch = place_batch({"video": np.stack([clip] * COPIES)}, run.mesh)
    for _ in range(STEPS):
        state, metrics = step(state, batch)
    assert int(metrics["skipped"]) == 0
    sampled = to_uint8(jax.device_get(run.generator()(weights(state, "0.95"), 2, jax.random.key(1))))
    other = sprites.clip(SpritesConfig(frames=4), 1).video
    for video in sampled:
        assert psnr(video, clip) > 30
        assert psnr(video, other) < 20
