"""AnimateLCM's claim (arXiv 2402.00769): few steps are learned better of good pictures first and then of bad videos.

Two students of the base `motion_dit` at as many steps of training: pairs of pictures and then temporal blocks of
degraded clips, or both at once of degraded clips.  Beside them the teacher in 4 steps and in 32; in 25 for the time.
"""

import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from data_pipelines.worlds.sprites import oracle
from vdm_jax.evaluation.claims import Check, Claim, Lab
from vdm_jax.evaluation.claims.methods import load
from vdm_jax.evaluation.frechet import frechet_distance
from vdm_jax.media.grid import to_uint8

from . import toy

marked = load(Path(__file__).parents[1] / "bases" / "marked.py")

FEW, MANY, TIMED = 4, 32, 25
CLIPS, BATCH, TURNS = 256, 32, 7
NAMES = {
    "many": f"teacher, {MANY} steps",
    "few": f"teacher, {FEW} steps",
    "decoupled": f"decoupled, {FEW} steps",
    "joint": f"joint, {FEW} steps",
}


def measure(lab: Lab) -> dict[str, float]:
    """All arms of one seed."""
    teacher = lab.base(marked.BASE)["backbone"]
    clean, sprites = marked.videos(1600, 100 + lab.seed)
    filmed, filmed_sprites = marked.videos(1600, 200 + lab.seed)
    filmed = {"video": marked.degraded(filmed), **marked.labels(filmed_sprites)}
    steps = lab.pick(900, 3600)
    students, measured = {}, {}
    students["decoupled"] = _decoupled(lab, teacher, marked.pictures(clean, sprites), filmed, steps)
    students["joint"] = _joint(lab, teacher, filmed, 2 * steps)

    held, asked = marked.videos(CLIPS, 300 + lab.seed)
    wanted, shown = toy.features(held / 127.5 - 1.0), {}
    others = toy.features(marked.videos(CLIPS, 400 + lab.seed)[0] / 127.5 - 1.0)
    measured["real/distance"] = frechet_distance(others, wanted)
    measured["degraded/distance"] = frechet_distance(toy.features(filmed["video"][:CLIPS] / 127.5 - 1.0), wanted)
    draws = {steps: toy.drawer(marked, steps, False) for steps in (FEW, TIMED, MANY)}
    quick = toy.drawer(marked, FEW, True)
    arms = {"many": (draws[MANY], teacher), "few": (draws[FEW], teacher), "timed": (draws[TIMED], teacher)}
    arms |= {name: (quick, params) for name, params in students.items()}
    for arm, (draw, params) in arms.items():
        shown[arm] = _made(draw, params, asked, lab.seed)
        measured |= {
            f"{arm}/distance": frechet_distance(toy.features(shown[arm]), wanted),
            f"{arm}/direction": toy.headed(marked, shown[arm], marked.labels(asked)["heading"]),
            f"{arm}/oracle": oracle.agreement(marked.enlarged(to_uint8(shown[arm])), asked, marked.WORLD)["overall"],
            f"{arm}/mark": toy.mark_seen(marked, shown[arm]),
        }
        lab.say(f"{arm}: " + ", ".join(f"{k.split('/')[1]} {v:.3f}" for k, v in measured.items() if k.startswith(arm)))
    measured |= _seconds(draws[TIMED], teacher, quick, students["decoupled"])
    pictures = {text: marked.enlarged(to_uint8(shown[arm])) for arm, text in NAMES.items()}
    pictures = {"clean": marked.enlarged(held), "degraded": marked.enlarged(marked.degraded(held)), **pictures}
    cells = [{text: clips[i] for text, clips in pictures.items()} for i in (0, 21, 46)]
    captions = [f"{s.colour}, {s.direction}" for s in (asked[i] for i in (0, 21, 46))]
    lab.show("samples", cells, captions, frames=8, height=64)
    return measured


def _decoupled(lab: Lab, teacher, pictures, filmed, steps: int):
    """The student of pictures and then of clips, and how it did."""
    drawn = marked.still(teacher)
    networks = dict.fromkeys(("backbone", "target", "teacher"), drawn)
    pairs, loss = toy.distilled(marked, pictures, steps, lab.seed, networks, ("lora",), marked.PAIRS)
    begins = toy.with_pairs(teacher, pairs, marked.PAIRS.scale)
    networks = {"backbone": begins, "target": teacher, "teacher": teacher}
    student, then = toy.distilled(marked, filmed, steps, lab.seed, networks, ("temporal",), None)
    lab.say(f"decoupled: losses {loss:.4f} and {then:.4f}")
    return student


def _joint(lab: Lab, teacher, filmed, steps: int):
    """The student of clips alone."""
    networks = dict.fromkeys(("backbone", "target", "teacher"), teacher)
    student, loss = toy.distilled(marked, filmed, steps, lab.seed, networks, ("lora", "temporal"), marked.PAIRS)
    lab.say(f"joint: loss {loss:.4f}")
    return toy.merged(student, marked.PAIRS.scale)


def _made(draw: Callable, params, asked, seed: int) -> np.ndarray:
    """A clip for each that is asked for."""
    label, parts = marked.labels(asked), []
    for start in range(0, CLIPS, BATCH):
        key, part = jax.random.fold_in(jax.random.key(seed), start), slice(start, start + BATCH)
        parts.append(np.asarray(draw(params, label["label"][part], label["heading"][part], key)))
    return np.concatenate(parts)


def _seconds(slow: Callable, teacher, quick: Callable, student) -> dict[str, float]:
    """Medians of a batch's time, taken in turns so that a busy machine slows both."""
    label, heading, found = np.zeros(BATCH, int), np.zeros(BATCH, np.float32), {"teacher": [], "student": []}
    for _ in range(TURNS):
        for name, draw, params in (("teacher", slow, teacher), ("student", quick, student)):
            begin = time.perf_counter()
            jax.block_until_ready(draw(params, label, heading, jax.random.key(0)))
            found[name].append(time.perf_counter() - begin)
    return {f"seconds/{name}": float(np.median(seconds)) for name, seconds in found.items()}


CLAIM = Claim(
    says="few steps learned of good pictures, then of bad videos, beat few steps learned of bad videos alone",
    measure=measure,
    checks=(
        Check(
            "decoupled",
            "distance to clean clips, decoupled over joint",
            lambda m: m["decoupled/distance"] / m["joint/distance"],
            most=0.85,
        ),
        Check(
            "decoupled_sign",
            "the same, in every seed",
            lambda m: m["decoupled/distance"] / m["joint/distance"],
            most=1.0,
            every_seed=True,
        ),
        Check(
            "steps",
            "distance to clean clips, the student in 4 steps over the teacher in 4",
            lambda m: m["decoupled/distance"] / m["few/distance"],
            most=0.6,
        ),
        Check(
            "steps_sign",
            "the same, in every seed",
            lambda m: m["decoupled/distance"] / m["few/distance"],
            most=1.0,
            every_seed=True,
        ),
        Check(
            "direction",
            "share of clips that go where they should, the student in 4 steps less the teacher in 32",
            lambda m: m["decoupled/direction"] - m["many/direction"],
            least=-0.05,
        ),
        Check(
            "faster",
            "seconds of a batch, the teacher in 25 steps over the student in 4",
            lambda m: m["seconds/teacher"] / m["seconds/student"],
            least=5.0,
        ),
        Check(
            "quality",
            "share of clips that the oracle reads as asked for, the student in 4 steps less the teacher in 25, or 0.5",
            lambda m: m["decoupled/oracle"] - max(m["timed/oracle"], 0.5),  # two that show nothing are not equally good
            least=-0.05,
        ),
    ),
)
