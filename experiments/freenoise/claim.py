"""Long clips of a network of short ones: 64 frames from the base `video_dit`, which saw 16.

Every arm has the same weights, prompts, steps and number of clips.  Prompts name a shape; the colour is left to the
noise, so that it may drift.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vdm_jax.evaluation.claims import Check, Claim, Lab
from vdm_jax.evaluation.claims.methods import load
from vdm_jax.evaluation.frechet import frechet_distance
from vdm_jax.media.grid import to_uint8

bases = load(Path(__file__).parents[1] / "bases" / "bases.py")
wandering = bases.wandering

FRAMES, TRAINED, APART, READ = 64, 16, 32, 4  # READ: frames that the oracle reads at once
CLIPS, BATCH, STEPS, GUIDANCE = 32, 8, 16, 1.0
WINDOWS = {"size": TRAINED, "stride": 4}
NOISE = {"kind": "rescheduled", "window": TRAINED, "stride": 4}
ARMS: dict[str, dict[str, Any]] = {
    "direct": {},
    "fusion": {"windows": WINDOWS},
    "noise": {"noise": NOISE},
    "both": {"windows": WINDOWS, "noise": NOISE},
    "codenoise": {"co_denoise": WINDOWS},
}


def measure(lab: Lab) -> Mapping[str, float]:
    """All arms of one seed."""
    weights, known = lab.base(bases.BASES[0]), bases.video_dit()
    real, kinds = wandering.clips(512, FRAMES, 1000 + lab.seed)
    prompts = [f"a {shape}" for _, shape in kinds[:CLIPS]]
    wanted = looks(slices(real))
    found = {"real/agreement": agreement(real[:CLIPS]), "real/motion": motion(real)}
    choices = {"guidance": GUIDANCE, "frames": FRAMES, "steps": lab.pick(STEPS, 2 * STEPS)}
    arms = {arm: known.generator(bases.SHAPE, **choices, **settings) for arm, settings in ARMS.items()}
    shown, seconds = in_turns(arms, weights, known.tokenizer.encode(prompts), lab.seed)
    for arm, clips in shown.items():
        found[f"{arm}/seconds"] = seconds[arm]
        found[f"{arm}/agreement"], found[f"{arm}/motion"] = agreement(clips), motion(clips)
        found[f"{arm}/distance"] = frechet_distance(looks(slices(clips)), wanted)
        lab.say(f"{arm}: " + ", ".join(f"{k.split('/')[1]} {v:.3g}" for k, v in found.items() if k.startswith(arm)))
    cells = [{"real": real[i], **{arm: clips[i] for arm, clips in shown.items()}} for i in range(3)]
    lab.show("long", cells, [f"{prompt}, 16 of {FRAMES} frames" for prompt in prompts[:3]], frames=16, height=48)
    return found


def in_turns(
    arms: Mapping[str, Callable[..., jax.Array]], weights: Any, text: Mapping[str, np.ndarray], seed: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Clips of each arm in batches, uint8 `[B, T, H, W, 3]`, and the least CPU time of a batch of it.

    Arms take turns, so that a machine that is busy for a while is so for all of them; the first batch compiles and is
    not timed.
    """
    clips, seconds = {arm: [] for arm in arms}, {arm: [] for arm in arms}
    for start in range(0, CLIPS, BATCH):
        part = {key: value[start : start + BATCH] for key, value in text.items()}
        for arm, generate in arms.items():
            begin = time.process_time()
            made = jax.device_get(generate(weights, part, jax.random.key(1000 * seed + start)))
            seconds[arm].append(time.process_time() - begin)
            clips[arm].append(to_uint8(made))
    return {arm: np.concatenate(c) for arm, c in clips.items()}, {arm: min(s[1:]) for arm, s in seconds.items()}


def agreement(clips: np.ndarray) -> float:
    """Share of pairs of moments `APART` frames from each other at which the oracle reads one colour and one shape."""
    at = range(0, FRAMES - APART, READ)
    first, second = (wandering.read(np.concatenate([clips[:, f + d : f + d + READ] for f in at])) for d in (0, APART))
    return float(np.mean([a == b and None not in a for a, b in zip(first, second)]))


def slices(clips: np.ndarray) -> np.ndarray:
    """Slices as long as the clips of training, `[B, T, ...] -> [B T / 16, 16, ...]`."""
    return clips.reshape(-1, TRAINED, *clips.shape[2:])


def looks(clips: np.ndarray) -> np.ndarray:
    """What a slice looks like, `[B, 8]`.

    Brightness and size of what is lit, how far it spreads, what part of it is half lit (blur), and how much all of
    these, its place and its pixels change from frame to frame.
    """
    light = clips.max(-1).astype(np.float32) / 255  # [B, T, H, W]
    mass = light.sum((2, 3))
    spread = np.sqrt(sum(_moment(light, mass, axis, 2) for axis in (2, 3)))
    blur = (light * (1 - light)).sum((2, 3)) / np.maximum(mass, 1)
    step = np.linalg.norm(np.diff(places(clips), axis=1), axis=-1)
    change = np.abs(np.diff(clips.astype(np.float32) / 255, axis=1)).mean((2, 3, 4))
    rows = (light.max((2, 3)), mass / 40, spread, 10 * blur)
    return np.stack([*(r.mean(1) for r in rows), mass.std(1) / 10, step.mean(1), step.std(1), 10 * change.mean(1)], 1)


def places(clips: np.ndarray) -> np.ndarray:
    """Centre of what is lit, (row, column) in pixels, `[B, T, 2]`."""
    light = clips.max(-1).astype(np.float32) / 255
    mass = light.sum((2, 3))
    return np.stack([_moment(light, mass, axis, 1) for axis in (2, 3)], -1)


def motion(clips: np.ndarray) -> float:
    """Pixels that the centre moves in a frame."""
    return float(np.linalg.norm(np.diff(places(clips), axis=1), axis=-1).mean())


def _moment(light: np.ndarray, mass: np.ndarray, axis: int, order: int) -> np.ndarray:
    """Mean place (1) or variance of places (2) of light along an axis, `[B, T]`."""
    rows, at = light.sum(5 - axis), np.arange(light.shape[axis])
    mean = (rows * at).sum(-1) / np.maximum(mass, 1e-3)
    return mean if order == 1 else (rows * (at - mean[..., None]) ** 2).sum(-1) / np.maximum(mass, 1e-3)


CLAIM = Claim(
    says="rescheduled noise and window attention make long clips of a short model consistent, at little more time",
    measure=measure,
    checks=(
        Check("agreement", "agreement of colour and shape 32 frames apart, both minus direct",
              lambda m: m["both/agreement"] - m["direct/agreement"], least=0.2),
        Check("distance", "distance of 16-frame slices to real ones, both over direct",
              lambda m: m["both/distance"] / m["direct/distance"], most=0.7),
        Check("time", "time, both over direct", lambda m: m["both/seconds"] / m["direct/seconds"], most=1.2),
        Check("co_denoising", "time, both over co-denoising",
              lambda m: m["both/seconds"] / m["codenoise/seconds"], most=0.5),
        Check("motion", "motion in a frame, both over real", lambda m: m["both/motion"] / m["real/motion"], least=0.7),
    ),
)  # fmt: skip
