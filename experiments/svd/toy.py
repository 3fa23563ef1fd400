"""The toy of SVD's claims: a corpus of sprites, its curation by the house's stages, and a small DiT.

clip      8 frames of 64x64 in four colours, in which curation looks; for the model the brightness alone, averaged to a
          latent of 8x8 with one channel and scaled to a deviation of about 1
caption   one more channel of each frame, in which each word that is said (shape, direction, speed) lights pixels
model     3 units (a spatial and a temporal block each) of width 64, one token a frame: as wide as the latent, for a
          narrower token holds no noise, and then every frame finds a place of its own
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.curation.cut_cascade import CascadeSettings, jumps
from data_pipelines.curation.filters import parse_filter
from data_pipelines.curation.scores.in_memory import sample_of
from data_pipelines.curation.scores.motion import Motion
from data_pipelines.curation.scores.text import TextArea
from data_pipelines.curation.table import ClipRow
from data_pipelines.loading.shrinking import averaged
from data_pipelines.worlds.sprites import oracle
from data_pipelines.worlds.sprites.flawed import Flawed
from data_pipelines.worlds.sprites.world import DIRECTIONS, SPEEDS, Sprite, SpritesConfig
from vdm_jax.diffusion import VP
from vdm_jax.models.dit import DiT, DiTConfig
from vdm_jax.objectives.denoising import DenoisingObjective
from vdm_jax.sampling import make_denoiser, sample, uniform
from vdm_jax.training.ema import EMAConfig
from vdm_jax.training.fit import Trainer, batches
from vdm_jax.training.optimizer import OptimizerConfig
from vdm_jax.training.recipe import plain

SOURCE = SpritesConfig(
    height=64, width=64, colours=("red", "green", "blue", "white"), shapes=("square", "cross"), size=(0.4, 0.42),
    travel=(0.3, 0.55),
)  # fmt: skip
GREY = dataclasses.replace(SOURCE, colours=("white",))  # what the model sees of it
SIDE, SMALLER, READ = 8, 8, 4  # of latents; how much smaller they are, and what the captions are checked on
WORDS = (*SOURCE.shapes, *DIRECTIONS, *SPEEDS)
SHAPE = (SOURCE.frames, SIDE, SIDE, 1)
MIDDLE, SCALE, LIT = 0.07, 4.0, 2.0  # of brightness in [0, 1], as the model sees it; of pixels of a word
BATCH, STEPS = 32, 16  # clips, levels
PROCESS = VP(prediction="x0")
MODEL = DiTConfig(
    channels=1,
    patch=(1, SIDE, SIDE),
    dim=64,
    depth=3,
    heads=2,
    mlp_dim=128,
    mlp="relu2",
    attention="factorised",
    rope=False,
    positions="learned",
    grid=(SOURCE.frames, 1, 1),
    concat_channels=1,
)
CUTS = CascadeSettings(ratio=1.6)
FILTERS = tuple(map(parse_filter, ("jumps==0", "motion>=0.005", "text<=0.04", "alike==1")))


def scored(found: Flawed) -> list[ClipRow]:
    """Every clip with its scores: `jumps` and the frame of the first one, `motion`, `text`, and `alike`, the share of
    the caption's words that the clip shows (an oracle reads it, where a corpus of pictures takes CLIP)."""
    rows, readings = [], oracle.read(averaged(found.video, READ) / 127.5 - 1.0, SOURCE)
    for number, (video, said, reading) in enumerate(zip(found.video, found.said, readings)):
        sample, cuts = sample_of(video, SOURCE.fps), jumps(video, CUTS)
        words = [getattr(reading, name) == getattr(said, name) for name in oracle.ANSWERS]
        scores = {"jumps": len(cuts), "jump": min(cuts, default=0), "alike": float(np.mean(words))}
        scores |= Motion(side=32).score(sample) | TextArea().score(sample)
        rows.append(ClipRow(f"{number:05d}", 0.0, len(video) / SOURCE.fps, scores=scores))
    return rows


def seen(video: np.ndarray) -> np.ndarray:
    """Clips as the model sees them, float32 `[N, T, 8, 8, 1]` in [-1, 1]."""
    return averaged(video.max(-1, keepdims=True), SMALLER) / 127.5 - 1.0


def grey(said: Sequence[Sprite]) -> list[Sprite]:
    """Captions that say nothing of colours."""
    return [dataclasses.replace(each, colour="white") for each in said]


def lit(said: Sequence[Sprite]) -> np.ndarray:
    """Captions as the model reads them, float32 `[N, T, 8, 8, 1]`."""
    words = np.float32([[word in (s.shape, s.direction, s.speed) for word in WORDS] for s in said])
    words = LIT * np.repeat(words, SIDE * SIDE // len(WORDS), axis=1)
    words = np.pad(words, ((0, 0), (0, SIDE * SIDE - words.shape[1]))).reshape(-1, 1, SIDE, SIDE, 1)
    return np.broadcast_to(words, (len(said), *SHAPE))


def learner(steps: int, seed: int) -> Callable[[np.ndarray, Sequence[Sprite], Sequence[Sprite]], np.ndarray]:
    """`made(video, said, prompts)`: what a model trained on clips `[N, T, 8, 8, 1]` in [-1, 1] makes of prompts.

    Between two calls what is learned from differs and nothing else: weights, draws of the batches, noise in training
    and noise in sampling are those of the seed.
    """
    optimizer = OptimizerConfig(
        "muon", learning_rate=2e-2, schedule="wsd", warmup=50, decay_fraction=0.5, weight_decay=0.0
    )
    objective = DenoisingObjective(PROCESS)
    trainer = Trainer(
        lambda rngs: {"backbone": DiT(MODEL, rngs)}, plain(objective, optimizer, steps), EMAConfig((0.99,))
    )

    @functools.partial(jax.jit, static_argnums=0)
    def generate(merge, params, told):
        x_T = PROCESS.prior(jax.random.key(seed), jnp.zeros((len(told), *SHAPE)))
        denoiser, levels = make_denoiser(PROCESS, merge(params)["backbone"]), uniform(PROCESS.levels(STEPS), SHAPE[0])
        return sample(denoiser, PROCESS, x_T, levels, {"concat": told})

    def made(video: np.ndarray, said: Sequence[Sprite], prompts: Sequence[Sprite]) -> np.ndarray:
        pixels = ((video + 1) / 2 - MIDDLE) * SCALE
        fitted = trainer.run(batches({"video": pixels, "concat": lit(said)}, BATCH, seed), seed)
        clips = np.asarray(generate(fitted.networks.merge, fitted.params, lit(prompts)))
        return np.clip(2 * (clips / SCALE + MIDDLE) - 1, -1, 1)

    return made
