"""Base models that claims start from; `vdm claim --bases` trains those that the cache lacks.

video_dit   text to video, 16 frames of 16x16: a factorised DiT with rotary places, on sprites that wander
motion_dit  pictures that move: `marked`
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from vdm_jax.config import build, to_dict
from vdm_jax.diffusion.configuration import process_from
from vdm_jax.diffusion.process import Process
from vdm_jax.evaluation.claims import Base
from vdm_jax.media.grid import to_uint8
from vdm_jax.models.networks import networks_from
from vdm_jax.models.tokenizer import Tokenizer
from vdm_jax.objectives.denoising import DenoisingObjective
from vdm_jax.sampling import SampleConfig, make_generator
from vdm_jax.training.ema import EMAConfig
from vdm_jax.training.fit import Trainer, batches
from vdm_jax.training.optimizer import OptimizerConfig
from vdm_jax.training.recipe import plain
from vdm_jax.training.state import MakeNetworks, NetworkDefinitions, define

from . import marked, wandering

SHAPE = (16, 16, 16, 3)

VIDEO_DIT: dict[str, Any] = {
    "process": {
        "kind": "rectified_flow",
        "prediction": "x0",
        "times": {"kind": "logit_normal", "mean": 0.4, "std": 1.3},
        "weighting": {"kind": "uniform", "space": "x0"},
    },
    "model": {
        "kind": "dit",
        "patch": (1, 8, 8),
        "dim": 72,
        "depth": 3,
        "heads": 4,
        "mlp": "relu2",
        "attention": "factorised",
        "adaln": "per_block",
        "pooled_text": True,
    },
    "text": {"tokenizer": "bpe", "vocab_size": 400, "length": 6, "dim": 64, "depth": 1, "heads": 4},
    "optimizer": {"kind": "muon", "learning_rate": 4e-3, "schedule": "wsd", "warmup": 50, "decay_fraction": 0.4},
    "steps": 1800,
    "batch": 20,
    "clips": 4096,
    "dropout": 0.1,
    "ema": 0.99,
    "seed": 0,
    "data": {"world": to_dict(wandering.WORLD), "captions": wandering.FORMS},
}


@dataclasses.dataclass(frozen=True)
class Unweighted:
    """What there is of a base beside its weights.

    Attributes:
      process: it was trained with.
      tokenizer: of its captions.
      make: of its networks.
    """

    process: Process
    tokenizer: Tokenizer
    make: MakeNetworks

    @property
    def networks(self) -> NetworkDefinitions:
        """`networks.merge(weights)` are modules."""
        return define(self.make)

    def generator(self, shape: tuple[int, int, int, int], **choices: Any):
        """`generate(weights, tokenizer.encode(prompts), key)`, see `sampling.make_generator`."""
        null = self.tokenizer.encode([""])
        return make_generator(self.process, self.networks.merge, build(SampleConfig, choices, "sample"), shape, null)


def video_dit() -> Unweighted:
    """The base `video_dit`, without weights."""
    config = networks_from(VIDEO_DIT["model"], VIDEO_DIT["text"])
    tokenizer = Tokenizer.train(wandering.PROMPTS, config.text)
    make = lambda rngs: config.make(tokenizer.vocab_size, rngs)  # noqa: E731
    return Unweighted(process_from(VIDEO_DIT["process"]), tokenizer, make)


def _train_video_dit() -> dict[str, Any]:
    """Its weights; says how many of its samples show what they were asked for."""
    known, chosen = video_dit(), VIDEO_DIT
    videos, kinds = wandering.clips(chosen["clips"], SHAPE[0], chosen["seed"])
    text = known.tokenizer.encode(wandering.captions(kinds, chosen["seed"]))
    null = {f"null_{key}": tuple(known.tokenizer.encode([""])[f"text_{key}"][0].tolist()) for key in ("ids", "mask")}
    objective = DenoisingObjective(known.process, dropout={"tokens": chosen["dropout"]}, **null)
    recipe = plain(objective, build(OptimizerConfig, chosen["optimizer"], "optimizer"), chosen["steps"])
    data = batches({"video": videos, **text}, chosen["batch"], chosen["seed"])
    fitted = Trainer(known.make, recipe, EMAConfig((chosen["ema"],))).run(data, chosen["seed"])

    prompts = [f"a {colour} {shape}" for colour, shape in kinds[:32]]
    generate = known.generator(SHAPE, steps=20, guidance=2.0)
    made = to_uint8(jax.device_get(generate(fitted.params, known.tokenizer.encode(prompts), jax.random.key(1))))
    right = np.mean([read == kind for read, kind in zip(wandering.read(made), kinds)])
    last = fitted.losses["train"][-100:].mean()
    print(f"video_dit: loss {last:.4f}; the oracle reads what was asked for off {right:.0%} of 32 samples")
    return fitted.params


BASES = (Base("video_dit", VIDEO_DIT, _train_video_dit), marked.BASE)
