"""FVDM's claim (arXiv 2410.03160): times drawn per frame give image-to-video and its kin without training for them.

Three models at equal steps, seeds and data: a clip draws its times per frame with probability 0 (ordinary training),
0.2 (FVDM) and 1.  Each is given frames of held-out clips at level 0.  Ordinary training is also given them in the way
that needs no such training: noised to everybody's level (inpainting); it is judged by the better of the two.
"""

import jax
import numpy as np

from vdm_jax.evaluation.claims import Check, Claim, Lab
from vdm_jax.evaluation.frechet import frechet_distance
from vdm_jax.media.grid import to_uint8
from vdm_jax.sampling.chunks import chunks

from . import toy

ARMS = {"p0": 0.0, "p02": 0.2, "p1": 1.0}
GIVEN = {"image_first": (0,), "image_middle": (4,), "interpolation": (0, 7)}
PLAIN, TASKS, OVERLAP, LONG = 1024, 128, 4, 16  # clips, clips, frames, frames


def measure(lab: Lab) -> dict[str, float]:
    """All three models of one seed."""
    steps = lab.pick(2000, 12000)
    video = toy.clips(2000, lab.seed)
    real, held = toy.clips(PLAIN, 1000 + lab.seed), toy.clips(TASKS, 2000 + lab.seed, LONG)
    measured, shown, samplers = {}, {}, {}
    for arm, independent in ARMS.items():
        fitted = toy.train(independent, video, steps, lab.seed)
        measured[f"{arm}/loss"] = float(fitted.losses["train"][-50:].mean())
        for way in ("clean", "renoise") if arm == "p0" else ("clean",):
            name = "inpainting" if way == "renoise" else arm
            generate = samplers.setdefault(way, toy.sampler(fitted.networks, way))
            clips, numbers = _given(generate, fitted.params, held, lab.seed)
            measured |= {f"{name}/{key}": value for key, value in numbers.items()}
            shown[name] = clips
        plain = _plain(samplers["clean"], fitted.params, lab.seed)
        measured[f"{arm}/plain"] = frechet_distance(_features(real), _features(plain))
        shown[f"{arm} plain"] = plain
        lab.say(f"{arm}: " + ", ".join(f"{k.split('/')[1]} {v:.3f}" for k, v in measured.items() if k.startswith(arm)))
    _show(lab, held, shown)
    return measured


def _plain(generate, params, seed: int) -> np.ndarray:
    """Clips from nothing."""
    nothing = np.zeros((TASKS, toy.FRAMES), bool)
    empty = np.zeros((TASKS, toy.FRAMES, toy.SIDE, toy.SIDE, 1), np.float32)
    keys = jax.random.split(jax.random.key(seed), PLAIN // TASKS)
    return np.concatenate([generate(params, key, nothing, empty) for key in keys])


def _given(generate, params, held: np.ndarray, seed: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Clips of all tasks with given frames, and how far the digit is from its true place next to what is given."""
    made, numbers, first = {}, {}, held[:, : toy.FRAMES]
    for number, (task, given) in enumerate(GIVEN.items()):
        mask = np.zeros(first.shape[:2], bool)
        mask[:, given] = True
        made[task] = np.asarray(generate(params, jax.random.key(100 * seed + number), mask, first))
        beside = sorted({i + step for i in given for step in (-1, 1)} & set(range(toy.FRAMES)))
        numbers[task] = _error(made[task], first)[:, beside].mean()
        numbers[f"{task}_wobble"] = np.abs(np.diff(toy.places(made[task]), n=2, axis=1)).mean()

    def chunk(number, last):
        mask = np.zeros(first.shape[:2], bool)
        mask[:, :OVERLAP] = True
        value = np.concatenate([last, np.zeros_like(first[:, OVERLAP:])], axis=1)
        return np.asarray(generate(params, jax.random.key(100 * seed + 50 + number), mask, value))

    parts = chunks(chunk, LONG, toy.FRAMES, OVERLAP, given=held[:, :OVERLAP])
    made["long"] = np.concatenate(list(parts), axis=1)
    error = _error(made["long"], held)
    numbers |= {"long": error[:, OVERLAP].mean(), "long_end": error[:, -1].mean()}
    numbers["neighbour"] = np.mean([numbers[task] for task in (*GIVEN, "long")])
    return made, numbers


def _error(video: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distance of the digit's centres, `[N, T]` in pixels."""
    return np.linalg.norm(toy.places(video) - toy.places(truth), axis=-1)


def _features(video: np.ndarray) -> np.ndarray:
    """Trajectory features `[N, 3 T]`: the digit's place in each frame, and how much of it there is."""
    light = np.clip((video + 1) / 2, 0, 1).sum((2, 3, 4))[..., None] / 10
    return np.concatenate([toy.places(video), light], axis=-1).reshape(len(video), -1)


def _show(lab: Lab, held: np.ndarray, shown: dict) -> None:
    """One clip of each task, of each model; and two from nothing."""
    names = {"p0": "p = 0", "inpainting": "p = 0, inpainting", "p02": "p = 0.2", "p1": "p = 1"}

    def rgb(clip: np.ndarray) -> np.ndarray:
        return to_uint8(np.repeat(clip, 3, axis=-1))

    cells, captions = [], []
    for task, given in {**GIVEN, "long": tuple(range(OVERLAP))}.items():
        frames = LONG if task == "long" else toy.FRAMES
        cells.append({"truth": rgb(held[0, :frames])} | {label: rgb(shown[n][task][0]) for n, label in names.items()})
        captions.append(f"{task.replace('_', ' ')}: frames {', '.join(map(str, given))} given")
    for i in range(2):
        cells.append({names[arm]: rgb(shown[f"{arm} plain"][i]) for arm in ARMS})
        captions.append("from nothing")
    lab.show("samples", cells, captions, frames=LONG, height=48)


def _zero_shot(m) -> float:
    return m["p02/neighbour"] / min(m["p0/neighbour"], m["inpainting/neighbour"])


CLAIM = Claim(
    says="times drawn per frame in a fifth of the clips give image-to-video, interpolation and continuation for free",
    measure=measure,
    checks=(
        Check(
            "zero_shot",
            "error of the digit's place beside given frames, p = 0.2 over the better of p = 0's two ways",
            _zero_shot,
            most=0.5,
            every_seed=True,
        ),
        Check(
            "plain",
            "Frechet distance of clips from nothing, p = 0.2 over p = 0",
            lambda m: m["p02/plain"] / m["p0/plain"],
            most=1.05,
        ),
        Check(
            "mixture",
            "the same distance, p = 1 over p = 0.2",
            lambda m: m["p1/plain"] / m["p02/plain"],
            least=1.0,
        ),
    ),
)
