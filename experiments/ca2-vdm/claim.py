"""Ca2-VDM's claim (arXiv 2411.16375): chunks that read what is remembered cost the same for ever, and are as good.

Three models at equal steps, seeds and data: ours (causal in time, given frames at level 0.1 in training), ours with
clean given frames, and the baseline that sees the frames of a chunk and those before it both ways and computes all of
them again in each step.  Each is given the first 4 frames of held-out videos and makes 40.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.evaluation.claims import Check, Claim, Lab
from vdm_jax.evaluation.frechet import frechet_distance
from vdm_jax.media.grid import to_uint8
from vdm_jax.planning.flops import count
from vdm_jax.sampling.continuing import ChunkAutoregressive, Recomputing

from . import toy

ARMS = {"ours": (True, toy.DIRT), "clean": (True, 0.0), "both_ways": (False, toy.DIRT)}
VIDEOS, NEW = 64, 40
KEY = jax.random.key(0)


def measure(lab: Lab) -> dict[str, float]:
    """All three models of one seed."""
    steps = lab.pick(600, 3000)
    video, held = toy.clips(1500, lab.seed), toy.clips(VIDEOS, 1000 + lab.seed, toy.FIRST + NEW)
    truth, measured, shown, drivers = toy.places(held), {}, {}, {}
    stays = np.linalg.norm(truth[:, toy.FIRST :] - truth[:, toy.FIRST - 1 : toy.FIRST], axis=-1)
    measured["stays/track"] = stays.mean()
    for arm, (causal, dirt) in ARMS.items():
        fitted = toy.train(causal, dirt, video, steps, lab.seed)
        kind = ChunkAutoregressive if causal else Recomputing
        driver, key = toy.driver(kind, fitted, toy.DIRT_SEEN if dirt else 0.0), jax.random.key(lab.seed)
        made = np.asarray(driver.video(fitted.params, jnp.asarray(held[:, : toy.FIRST]), toy.FIRST + NEW, {}, key))
        error = np.linalg.norm(toy.places(made) - truth, axis=-1)[:, toy.FIRST :]
        measured |= {
            f"{arm}/loss": float(fitted.losses["train"][-50:].mean()),
            f"{arm}/track": error.mean(),
            f"{arm}/first_chunk": error[:, : toy.CHUNK].mean(),
            f"{arm}/last_frame": error[:, -1].mean(),
            f"{arm}/distance": frechet_distance(*(_features(x[:, toy.FIRST :]) for x in (held, made))),
        }
        shown[arm], drivers[arm] = made, (driver, fitted.params)
        lab.say(
            f"{arm} (stays {stays.mean():.3f}): "
            + ", ".join(f"{k.split('/')[1]} {v:.3f}" for k, v in measured.items() if arm in k)
        )
    measured |= _costs(*drivers["ours"], *drivers["both_ways"])
    _show(lab, held, shown)
    return measured


def _costs(ours: ChunkAutoregressive, params, theirs: Recomputing, their_params) -> dict[str, float]:
    """FLOPs of the traced programs of a chunk of all videos, seconds of the compiled ones, bytes of the memory."""
    given = jnp.zeros((VIDEOS, toy.KEEP, toy.SIDE, toy.SIDE, 1))
    again = dataclasses.replace(theirs, network=ours.network)
    numbers = {}
    for before in range(toy.FIRST, toy.KEEP + 1, toy.CHUNK):
        numbers[f"flops/both_ways_{before}"] = _flops(theirs._extend, their_params, given[:, :before], {}, KEY)
        numbers[f"flops/recomputed_{before}"] = _flops(again._extend, params, given[:, :before], {}, KEY)
    memory = ours.begin(params, given[:, : toy.FIRST], {}, KEY)
    for chunk in range(10):
        if chunk in (0, 3, 9):  # the first, the first with a full queue, the last
            numbers[f"flops/ours_{chunk}"] = _flops(
                lambda p, m, c, k: ours._extend(p, m, c, k, VIDEOS), params, memory, {}, KEY
            )
        memory = ours.extend(params, memory, {}, KEY, VIDEOS)[1]
    numbers["seconds/ours"] = _seconds(lambda: ours.extend(params, memory, {}, KEY, VIDEOS))
    numbers["seconds/both_ways"] = _seconds(lambda: theirs.extend(their_params, given, {}, KEY))
    for steps in (10, 100):
        driver = dataclasses.replace(ours, levels=toy.PROCESS.levels(steps))
        after = jax.eval_shape(lambda d=driver: d._extend(params, memory, {}, KEY, VIDEOS)[1])
        numbers[f"bytes/steps_{steps}"] = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(after))
    return numbers


def _flops(function, *arguments) -> float:
    return count(jax.jit(function).trace(*arguments).jaxpr).flops


def _seconds(run) -> float:
    """The median of five runs, compiled before."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def _features(video: np.ndarray) -> np.ndarray:
    """What a random layer makes of 8 frames at a time, `[N, 32]`."""
    windows = video.reshape(-1, 8 * toy.SIDE * toy.SIDE)
    layer = np.random.default_rng(0).normal(size=(windows.shape[1], 32)) / np.sqrt(windows.shape[1])
    return np.maximum(windows @ layer, 0.0)


def _show(lab: Lab, held: np.ndarray, shown: dict[str, np.ndarray]) -> None:
    names = {"ours": "ours", "clean": "ours, clean prefixes", "both_ways": "both ways, recomputed"}

    def rgb(clip: np.ndarray) -> np.ndarray:
        return to_uint8(np.repeat(clip[::4], 3, axis=-1))

    cells = [{"truth": rgb(held[i])} | {name: rgb(shown[arm][i]) for arm, name in names.items()} for i in range(4)]
    captions = ["4 frames given, 40 made; each fourth is shown"] * 4
    lab.show("samples", cells, captions, frames=11, height=48)


CLAIM = Claim(
    says="videos continued through a shared cache cost the same for each chunk, and are as good as recomputed ones",
    measure=measure,
    checks=(
        Check(
            "flat",
            "FLOPs of the last chunk over those of the first with a full queue",
            lambda m: m["flops/ours_9"] / m["flops/ours_3"],
            most=1.0,
            every_seed=True,
        ),
        Check(
            "cheaper",
            "FLOPs of a chunk behind 16 frames, the bidirectional baseline over ours",
            lambda m: m["flops/both_ways_16"] / m["flops/ours_9"],
            least=2.0,
            every_seed=True,
        ),
        Check(
            "faster",
            "seconds of the same",
            lambda m: m["seconds/both_ways"] / m["seconds/ours"],
            least=2.0,
        ),
        Check(
            "memory",
            "bytes of the cache for 100 sampling steps over those for 10",
            lambda m: m["bytes/steps_100"] / m["bytes/steps_10"],
            most=1.0,
            every_seed=True,
        ),
        Check(
            "track",
            "error of the ball's place over 40 frames, ours over the baseline",
            lambda m: m["ours/track"] / m["both_ways/track"],
            most=1.1,
        ),
        Check(
            "perturbation",
            "the error in the last frame, perturbed prefixes in training over clean ones",
            lambda m: m["ours/last_frame"] / m["clean/last_frame"],
            most=0.95,
            counts=False,
        ),
    ),
)
