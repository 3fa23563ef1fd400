"""ViD-GPT's claim (arXiv 2406.10981): a long causal prompt remembers what a short overlap forgets, and a cache pays.

Three models of equal size, steps and seeds: `overlap` sees the last 4 frames, `both_ways` all frames before a chunk,
computed again in each step, and `ours` all of them through the cache.  Given 4 frames, each goes on to 32.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.diffusion.masks import Prefix
from vdm_jax.evaluation.claims import Check, Claim, Lab
from vdm_jax.media.grid import to_uint8
from vdm_jax.sampling.continuing import ChunkAutoregressive, Recomputing

from . import toy

VIDEOS = 64
TASKS = Prefix(first=toy.FIRST, step=toy.CHUNK, chunk=toy.CHUNK)
ARMS = {  # whether it is causal, frames it sees, how it goes on
    "overlap": (False, toy.FIRST, Recomputing),
    "both_ways": (False, toy.FRAMES - toy.CHUNK, Recomputing),
    "ours": (True, toy.FRAMES - toy.CHUNK, ChunkAutoregressive),
}


def measure(lab: Lab) -> dict[str, float]:
    """All three models of one seed."""
    steps = lab.pick(600, 3000)
    video, _ = toy.clips(1000, lab.seed)
    held, amounts = toy.clips(VIDEOS, 1000 + lab.seed)
    measured, shown, drivers = {}, {}, {}
    for arm, (causal, keep, kind) in ARMS.items():
        seen = video if keep > toy.FIRST else _windows(video, keep + toy.CHUNK, lab.seed)
        fitted = toy.train(causal, seen, TASKS, steps, lab.seed)
        driver, key = toy.driver(kind, fitted, keep), jax.random.key(lab.seed)
        made = np.asarray(driver.video(fitted.params, jnp.asarray(held[:, : toy.FIRST]), toy.FRAMES, {}, key))
        shown[arm], drivers[arm] = made, (driver, fitted.params)
        measured |= {f"{arm}/loss": float(fitted.losses["train"][-50:].mean())}
        measured |= {f"{arm}/{name}": value for name, value in _on_return(made, held, amounts).items()}
        lab.say(f"{arm}: " + ", ".join(f"{k.split('/')[1]} {v:.3f}" for k, v in measured.items() if arm in k))
    measured |= _seconds_a_frame(*drivers["ours"], *drivers["both_ways"])
    _show(lab, held, shown)
    return measured


def _windows(video: np.ndarray, frames: int, seed: int) -> np.ndarray:
    """Two windows of each video."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(video.shape[1] - frames + 1, size=2 * len(video))
    return np.stack([video[i % len(video), start : start + frames] for i, start in enumerate(starts)])


def _on_return(made: np.ndarray, held: np.ndarray, amounts: np.ndarray) -> dict[str, float]:
    """What is right when the ball is back: its colour, and how far it is from its place in pixels."""
    right, distance = [], []
    for ours, theirs, amount in zip(made, held, amounts):
        _, back = toy.hidden(amount)
        frames = slice(back + 1, min(back + 1 + toy.CHUNK, toy.FRAMES))
        (colour, place), (truth, true_place) = (_look(x[frames, :, : toy.OPEN]) for x in (ours, theirs))
        right.append(colour == truth)
        distance.append(np.abs(place - true_place))
    return {"identity": float(np.mean(right)), "place": float(np.mean(distance))}


def _look(view: np.ndarray) -> tuple[int, float]:
    """Which colour of the palette is in view (-1: nothing is), and its mean height in pixels of the clip."""
    bright = np.clip((view.max(-1) + 1) / 2, 0, 1) ** 2
    if bright.sum() < 0.5:
        return -1, float(toy.SIDE)
    colour = (view * bright[..., None]).sum((0, 1, 2)) / bright.sum()
    height = (bright.sum((0, 2)) * (2 * np.arange(toy.SIDE) + 1.0)).sum() / bright.sum()
    return int(np.argmin(((toy.PALETTE - colour) ** 2).sum(-1))), float(height)


def _seconds_a_frame(ours, params, theirs, their_params) -> dict[str, float]:
    """Of the frames behind 28: the median of five runs, compiled before."""
    before = jnp.zeros((VIDEOS, toy.FRAMES - toy.CHUNK, toy.SIDE, toy.SIDE, 3))
    key, memory = jax.random.key(0), ours.begin(params, before, {}, jax.random.key(0))
    runs = {
        "ours": lambda: ours.extend(params, memory, {}, key, VIDEOS),
        "both_ways": lambda: theirs.extend(their_params, before, {}, key),
    }
    seconds = {}
    for arm, run in runs.items():
        jax.block_until_ready(run())
        taken = []
        for _ in range(5):
            begin = time.perf_counter()
            jax.block_until_ready(run())
            taken.append(time.perf_counter() - begin)
        seconds[f"seconds/{arm}"] = float(np.median(taken)) / (toy.CHUNK * VIDEOS)
    return seconds


def _show(lab: Lab, held: np.ndarray, shown: dict[str, np.ndarray]) -> None:
    names = {"overlap": "4 frames seen", "both_ways": "all, recomputed", "ours": "all, remembered"}
    cells = [
        {"truth": to_uint8(held[i, ::2])} | {name: to_uint8(shown[arm][i, ::2]) for arm, name in names.items()}
        for i in range(4)
    ]
    lab.show("samples", cells, ["4 frames given, each second is shown"] * 4, frames=16, height=40)


CLAIM = Claim(
    says="a long causal prompt keeps what goes out of sight, where a short overlap forgets it, at half the time",
    measure=measure,
    checks=(
        Check(
            "remembers",
            "colours that are right on return, all frames through the cache less 4 frames",
            lambda m: m["ours/identity"] - m["overlap/identity"],
            least=0.15,
        ),
        Check(
            "as_good",
            "the same, all frames through the cache less all frames recomputed",
            lambda m: m["ours/identity"] - m["both_ways/identity"],
            least=-0.05,
        ),
        Check(
            "faster",
            "seconds a frame behind 28 frames, ours over all recomputed",
            lambda m: m["seconds/ours"] / m["seconds/both_ways"],
            most=0.5,
        ),
    ),
)
