"""The base `motion_dit`: it draws as good pictures and moves as bad videos do (AnimateDiff, arXiv 2307.04725).

    pictures   all but the temporal blocks, on clean frames of sprites; temporal gates stay shut
    domain     low-rank pairs beside the spatial layers, on frames of the videos: they take up what is bad about these
    motion     the temporal blocks and the heading, on the videos, in front of the pairs, which then are thrown away

The videos are the same world out of focus, with a mark in a corner.  All are seen at half their size, in red and green,
and a frame is one token.  The label says the colour, the heading where the sprite goes, in degrees (-1 in pictures).
Shut gates (`still`) make the network that of pictures again, frame by frame.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict
from scipy import ndimage

from data_pipelines.worlds.sprites.world import DIRECTIONS, Sprite, SpritesConfig, clip, parse_caption
from vdm_jax.adapters.lora import LoRAConfig, add_lora, merged
from vdm_jax.config import to_dict
from vdm_jax.diffusion import VP
from vdm_jax.evaluation.claims import Base
from vdm_jax.models.dit import DiT, DiTConfig
from vdm_jax.nn.path_filter import select
from vdm_jax.objectives.denoising import DenoisingObjective
from vdm_jax.training.ema import EMAConfig
from vdm_jax.training.fit import Trainer, batches
from vdm_jax.training.optimizer import OptimizerConfig
from vdm_jax.training.recipe import plain
from vdm_jax.training.state import Params, overlay, subset

WORLD = SpritesConfig(colours=("red", "green"), shapes=("square",))
SHAPE = (WORLD.frames, WORLD.height // 2, WORLD.width // 2, 2)
BLUR, MARK, BRIGHT = 0.8, 2, 200  # pixels of the blur and of the mark's side; grey level of the mark
PROCESS = VP(prediction="x0")
MODEL = DiTConfig(
    channels=SHAPE[3],
    patch=(1, *SHAPE[1:3]),
    dim=96,
    depth=3,
    heads=4,
    mlp="relu2",
    attention="factorised",
    adaln="per_block",
    classes=len(WORLD.colours),
    scalars=("heading",),
)
PAIRS = LoRAConfig(("spatial/attention", "spatial/mlp"), rank=16)  # of students
DOMAIN = LoRAConfig((*PAIRS.targets, "patch_out"), rank=16)
MOTION = ("temporal", "heading/hidden", "heading/out")
CONDITIONS = ("vector.label", "vector.heading")
SETTINGS = {
    "pictures": (1600, 128),
    "domain": (800, 128),
    "motion": (2800, 32),
    "clips": 2400,
    "rate": 4e-3,
    "ema": 0.99,
}

Data = dict[str, np.ndarray]


def videos(count: int, seed: int) -> tuple[np.ndarray, list[Sprite]]:
    """Clean clips, uint8 `[count, *SHAPE]`, and what is in them."""
    made = [clip(WORLD, index, seed) for index in range(count)]
    video = np.stack([example.video[..., : SHAPE[3]] for example in made]).astype(np.float32)
    half = video.reshape(count, WORLD.frames, SHAPE[1], 2, SHAPE[2], 2, SHAPE[3]).mean((3, 5))
    return np.round(half).astype(np.uint8), [parse_caption(example.caption) for example in made]


def enlarged(clips: np.ndarray) -> np.ndarray:
    """Clips as the oracle of the world takes them, uint8 with three colours: each pixel twice along both sides."""
    return np.pad(clips, [(0, 0)] * 4 + [(0, 1)]).repeat(2, axis=2).repeat(2, axis=3)


def mark() -> np.ndarray:
    """1 where the mark is, `[H, W, 1]`."""
    there = np.zeros((*SHAPE[1:3], 1), np.float32)
    there[:MARK, :MARK] = 1.0
    return there


def degraded(clean: np.ndarray) -> np.ndarray:
    """The same clips out of focus and marked."""
    blurred = ndimage.gaussian_filter(clean.astype(np.float32), (0, 0, BLUR, BLUR, 0))
    return np.round(blurred + mark() * (BRIGHT - blurred)).astype(np.uint8)


def labels(sprites: list[Sprite]) -> Data:
    """`label` and `heading` `[N]` of clips."""
    degrees = {word: np.degrees(np.arctan2(y, x)) % 360 for word, (x, y) in DIRECTIONS.items()}
    label = np.array([WORLD.colours.index(sprite.colour) for sprite in sprites])
    return {"label": label, "heading": np.array([degrees[sprite.direction] for sprite in sprites], np.float32)}


def pictures(clips: np.ndarray, sprites: list[Sprite]) -> Data:
    """All frames by themselves, as a batch of clips of one frame; nothing is said of where they go."""
    label = np.repeat(labels(sprites)["label"], clips.shape[1])
    return {
        "video": clips.reshape(-1, 1, *clips.shape[2:]),
        "label": label,
        "heading": np.full(len(label), -1.0, np.float32),
    }


def network(rngs: nnx.Rngs, pairs: LoRAConfig | None = None) -> DiT:
    """The network, with pairs beside its spatial blocks if they are given."""
    made = DiT(MODEL, rngs)
    if pairs is not None:
        add_lora(made, pairs, rngs)
    return made


def still(params: Params) -> Params:
    """The backbone's parameters with the gates of its temporal blocks shut: the network of pictures."""
    temporal = params["units"]["temporal"]
    shut = {**temporal, "modulation": jax.tree.map(np.zeros_like, temporal["modulation"])}
    return {**params, "units": {**params["units"], "temporal": shut}}


def denoising() -> DenoisingObjective:
    """Ordinary training on clips with a label and a heading."""
    return DenoisingObjective(PROCESS, vector=("label", "heading"), dropout=dict.fromkeys(CONDITIONS, 0.1))


def fit(stage: str, trains: tuple[str, ...], data: Data, params: Params | None, pairs: LoRAConfig | None) -> Params:
    """The backbone's parameters after a stage."""
    steps, batch = SETTINGS[stage]
    optimizer = OptimizerConfig("muon", learning_rate=SETTINGS["rate"], schedule="wsd", warmup=50, decay_fraction=0.4)
    recipe = plain(denoising(), optimizer, steps, trains)
    trainer = Trainer(lambda rngs: {"backbone": network(rngs, pairs)}, recipe, EMAConfig((SETTINGS["ema"],)))
    start = None if params is None else {"backbone": overlay(trainer.init(0)["backbone"], params)}
    data = {key: jnp.asarray(value) for key, value in data.items()}
    fitted = trainer.run(batches(data, batch, 0), 0, start)
    print(f"motion_dit, {stage}: loss {fitted.losses['train'][-100:].mean():.4f}", flush=True)
    return fitted.params["backbone"]


def train() -> dict[str, Any]:
    """The weights of the base."""
    clean, sprites = videos(SETTINGS["clips"], 0)
    filmed, filmed_sprites = videos(SETTINGS["clips"], 1)
    filmed = degraded(filmed)
    drawn = fit("pictures", ("!temporal",), pictures(clean, sprites), None, None)
    tuned = fit("domain", ("lora",), pictures(filmed, filmed_sprites), drawn, DOMAIN)
    films = {"video": filmed, **labels(filmed_sprites)}
    moving = fit("motion", MOTION, films, merged(tuned, DOMAIN.scale), None)
    kept = select(flatten_dict(moving).keys(), ("temporal", "heading"))
    return {"backbone": overlay(drawn, subset(moving, kept))}


BASE = Base(
    "motion_dit",
    {
        "world": to_dict(WORLD),
        "degradation": (BLUR, MARK, BRIGHT),
        "process": repr(PROCESS),
        "model": to_dict(MODEL),
        "domain": to_dict(DOMAIN),
        "motion": MOTION,
        "training": SETTINGS,
    },
    train,
)
