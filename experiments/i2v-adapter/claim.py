"""I2V-Adapter's claims (arXiv 2312.16693): the picture is kept, the base is too; and the prior says how much moves.

A  Equal steps on one base: the adapter; nothing, so that the first frame is seen through temporal layers alone;
   concatenation of the first frame, whose input layer trains.  All clips start from the frame similarity prior.
B  No training: p in 0.1, 0.5, 0.9 at t_0 = 0.8, and t_0 in 0.6, 0.8, 1 at p = 0.5; motion must rise with both.

likeness   PSNR of a window of 8 x 8 pixels round the sprite of the first frame, in a later frame, where it fits best
motion     pixels from the middle of the sprite in the first frame to that in the last one
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.worlds.sprites import oracle
from vdm_jax.evaluation.claims import Check, Claim, Lab
from vdm_jax.media.grid import to_uint8
from vdm_jax.objectives.denoising import DenoisingObjective
from vdm_jax.sampling import Known, SampleConfig, make_generator
from vdm_jax.sampling.noise.similar import FrameSimilarityPrior
from vdm_jax.training.state import define, subset

from . import toy

HELD, STEPS, BOX = 96, 25, 8
START = FrameSimilarityPrior(blur_size=5)  # as published but for the size of the blur, which is wider than a sprite
SHARES, LEVELS, BETWEEN = (0.1, 0.5, 0.9), (0.6, 0.8, 1.0), 0.8


def measure(lab: Lab) -> dict[str, float]:
    """Both claims, one seed."""
    weights, steps = lab.base(toy.base()), lab.pick(400, 1500)
    data, held = toy.clips(toy.CLIPS, 1 + lab.seed), toy.clips(HELD, 1000 + lab.seed)
    key, shown, measured = jax.random.key(lab.seed), {}, {"truth/likeness": likeness(held["video"])}
    measured["truth/motion"] = motion(held["video"])
    for arm in toy.ARMS:
        params = toy.train(arm, weights, data, steps, lab.seed)
        shown[arm] = sampled(arm, params, held, START, key)
        measured |= {f"{arm}/{name}": value for name, value in judged(shown[arm], held).items()}
        measured[f"{arm}/base_loss"] = base_loss(arm, params, held, key)
        lab.say(", ".join(f"{name} {value:.3f}" for name, value in measured.items() if name.startswith(arm)))
        if arm == "adapter":
            measured |= swept(params, held, key)
    lab.say(", ".join(f"{name} {value:.3f}" for name, value in measured.items() if "motion/" in name))
    names = {"adapter": "adapter", "none": "frozen base", "concat": "concatenation"}
    cells = [{"truth": held["video"][i]} | {names[arm]: shown[arm][i] for arm in toy.ARMS} for i in range(6)]
    ways = [list(toy.DIRECTIONS)[label] for label in held["label"][:6]]
    lab.show("arms", cells, [f"first frame given, {way}" for way in ways], height=48, columns=2)
    return measured


def sampled(arm: str, params, held, prior: FrameSimilarityPrior, key) -> np.ndarray:
    """Clips uint8 `[N, T, H, W, 3]` of an arm, from the first frames of held-out ones."""
    real = held["video"].astype(np.float32) / 127.5 - 1
    config = SampleConfig(steps=STEPS, guidance=1.0, prior=prior)
    shape = (toy.FRAMES, toy.SIDE, toy.SIDE, 3)
    generate = make_generator(toy.PROCESS, define(toy.network(arm)).merge, config, shape, None, known_way="shared")
    cond = {"vector": {"label": held["label"]}}
    cond |= {"concat": np.broadcast_to(real[:, :1], real.shape)} if arm == "concat" else {}
    known = Known(np.broadcast_to(np.arange(toy.FRAMES) == 0, real.shape[:2]), real)
    return to_uint8(np.asarray(generate(params, cond, key, None, known)))


def swept(params, held, key) -> dict[str, float]:
    """Motion of the adapter's clips for each share and level."""
    priors = {f"p{p:g}": dataclasses.replace(START, t0=BETWEEN, p=p) for p in SHARES}
    priors |= {f"t{t0:g}": dataclasses.replace(START, t0=t0) for t0 in LEVELS}
    moved = {prior: motion(sampled("adapter", params, held, prior, key)) for prior in set(priors.values())}
    return {f"motion/{name}": moved[prior] for name, prior in priors.items()}


def judged(video: np.ndarray, held) -> dict[str, float]:
    """How like the first frame a clip stays, to the eye and to the oracle; how far its sprite goes, and whether that is
    where the label says."""
    real, read = oracle.read(held["video"], toy.WORLD), oracle.read(video, toy.WORLD)
    same = [(a.colour, a.shape) == (b.colour, b.shape) for a, b in zip(real, read)]
    way = [list(toy.DIRECTIONS).index(r.direction) == w if r.direction else False for r, w in zip(read, held["label"])]
    found = {"likeness": likeness(video), "agreement": np.mean(same), "way": np.mean(way), "motion": motion(video)}
    return {name: float(value) for name, value in found.items()}


def likeness(video: np.ndarray) -> float:
    """Mean over clips and frames behind the first, in dB."""
    x = np.pad(video / 255.0, ((0, 0), (0, 0), (BOX // 2, BOX // 2), (BOX // 2, BOX // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (BOX, BOX), axis=(2, 3))  # [N, T, h, w, 3, 8, 8]
    found = []
    for clip, (row, column) in zip(windows, np.rint(middles(video[:, 0])).astype(int)):
        error = ((clip[1:] - clip[0, row, column]) ** 2).mean((-3, -2, -1)).min((1, 2))
        found.append(-10 * np.log10(np.maximum(error, 1e-6)).mean())
    return float(np.mean(found))


def motion(video: np.ndarray) -> float:
    """Pixels, the mean over clips."""
    return float(np.linalg.norm(middles(video[:, -1]) - middles(video[:, 0]), axis=-1).mean())


def middles(pictures: np.ndarray) -> np.ndarray:
    """Row and column of the mean place of what is bright, `[N, 2]`."""
    bright = (pictures.max(-1) / 255.0) ** 2
    total, at = np.maximum(bright.sum((1, 2)), 1e-6), np.arange(toy.SIDE) + 0.5
    return np.stack([(bright.sum(2) * at).sum(1) / total, (bright.sum(1) * at).sum(1) / total], -1)


def base_loss(arm: str, params, held, key) -> float:
    """Loss of label-to-video with what was trained for pictures switched off: no adapter, nothing concatenated."""
    networks = define(toy.network("concat" if arm == "concat" else "none"))
    params = subset(params, frozenset(networks.trainable))
    batch = {name: jnp.asarray(value) for name, value in held.items()}
    batch |= {"concat": jnp.zeros(batch["video"].shape)} if arm == "concat" else {}
    objective = DenoisingObjective(toy.PROCESS, vector=("label",), bands=4)
    run = jax.jit(lambda params, keys: objective.evaluate(networks.merge(params), batch, keys)["loss"])
    return float(run(params, jax.random.split(key, HELD)))


def rises(name: str, low: str, high: str) -> Check:
    """All steps of a sweep rise where Spearman's rank correlation is 1."""
    what = f"rise of motion from {low.replace('t', 't0=').replace('p', 'p=')} to {high[1:]}, pixels"
    return Check(name, what, lambda m: m[f"motion/{high}"] - m[f"motion/{low}"], least=1e-6)


CLAIM = Claim(
    says="an adapter that asks the first frame keeps the picture and leaves the text-to-video model as it is",
    measure=measure,
    checks=(
        Check(
            "appearance",
            "likeness to the first frame in dB, the adapter over the frozen base",
            lambda m: m["adapter/likeness"] - m["none/likeness"],
            least=2.0,
        ),
        Check(
            "base",
            "change of the base's own loss by the adapter",
            lambda m: abs(m["adapter/base_loss"] - m["none/base_loss"]),
            most=0.0,
            every_seed=True,
        ),
        Check(
            "concat",
            "change of the base's own loss by concatenation, relative",
            lambda m: abs(m["concat/base_loss"] - m["none/base_loss"]) / m["none/base_loss"],
            least=1e-3,
        ),
        rises("share", "p0.1", "p0.5"),
        rises("more_share", "p0.5", "p0.9"),
        rises("level", "t0.6", "t0.8"),
        rises("more_level", "t0.8", "t1"),
    ),
)
