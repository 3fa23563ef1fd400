"""VDT's claim (arXiv 2305.13311): one model trained on masks is as good at each task as a model trained for it alone.

At equal steps, batch and seeds: (unified) a third of the clips each for prediction, interpolation and generation;
(prediction, interpolation, generation) specialists; (still) the prediction specialist without attention over time; and
(adaln) another way to show a model the frames before, pooled and added to the embedding of the time.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.evaluation.claims import Check, Claim, Lab
from vdm_jax.media.grid import to_uint8
from vdm_jax.training.fit import batches

from . import toy

CLIPS, DRAWS, AHEAD = 96, 4, 4  # held-out clips, samples of each, frames that are judged of a prediction
LEARNED = 0.2  # share of valid clips, at least, of a specialist that others are held against
ARMS = {"unified": toy.UNIFIED, **toy.TASKS, "still": toy.TASKS["prediction"]}
STILL = ("*", "!temporal")  # its temporal attention stays the identity


def measure(lab: Lab) -> dict[str, float]:
    """All models of one seed."""
    steps = lab.pick(1200, 8000)
    video, held = toy.clips(2000, lab.seed), toy.clips(CLIPS, 1000 + lab.seed)
    measured, shown, generate = {"truth/valid": toy.valid(held)}, {}, None
    for arm, masks in ARMS.items():
        trains = STILL if arm == "still" else ("*",)
        fitted = toy.train(toy.tasks(video, masks, steps, lab.seed), steps, lab.seed, trains=trains)
        generate = generate or toy.sampler(fitted.networks)
        made = {task: _make(generate, fitted.params, held, task, lab.seed) for task in toy.TASKS}
        measured |= {f"{arm}/{name}": value for name, value in _numbers(made, held).items()}
        shown[arm] = made
        _tell(lab, arm, measured)
    data = {"video": jnp.asarray(video[:, toy.GIVEN :]), "tokens": jnp.asarray(toy.tokens(video))}
    fitted = toy.train(batches(data, toy.BATCH, lab.seed), steps, lab.seed, toy.pooled)
    ahead = _read(toy.sampler(fitted.networks, toy.FRAMES - toy.GIVEN), fitted.params, held, lab.seed)
    measured["adaln/prediction"] = _ahead(ahead, held[:, toy.GIVEN :])
    _tell(lab, "adaln", measured)
    _show(lab, held, shown)
    return measured


def _tell(lab: Lab, arm: str, measured: dict[str, float]) -> None:
    lab.say(f"{arm}: " + ", ".join(f"{k.split('/')[1]} {v:.4f}" for k, v in measured.items() if k.startswith(arm)))


def _make(generate, params, held: np.ndarray, task: str, seed: int) -> np.ndarray:
    """`[DRAWS, N, T, H, W, 2]`."""
    mask = np.asarray(toy.TASKS[task](jax.random.key(0), (toy.FRAMES,)).known)
    mask = np.broadcast_to(mask, held.shape[:2])
    return np.stack([generate(params, jax.random.key(10 * seed + i), mask, held, {}) for i in range(DRAWS)])


def _read(generate, params, held: np.ndarray, seed: int) -> np.ndarray:
    """The same of a model that makes the last frames and reads the first ones."""
    later, cond = held[:, toy.GIVEN :], {"tokens": toy.tokens(held)}
    nothing = np.zeros(later.shape[:2], bool)
    return np.stack([generate(params, jax.random.key(10 * seed + i), nothing, later, cond) for i in range(DRAWS)])


def _numbers(made: dict[str, np.ndarray], held: np.ndarray) -> dict[str, float]:
    between = np.arange(toy.FRAMES) % 4 != 0
    error = ((made["interpolation"].mean(0) - held) ** 2)[:, between].mean()
    return {
        "prediction": _ahead(made["prediction"][:, :, toy.GIVEN :], held[:, toy.GIVEN :]),
        "interpolation": error,
        "interpolation_psnr": 10 * np.log10(4 / error),
        "valid": np.mean([toy.valid(clips) for clips in made["generation"]]),
    }


def _ahead(made: np.ndarray, truth: np.ndarray) -> float:
    """Squared error of the first frames that are not given; the mean of all samples against the truth."""
    return float(((made.mean(0) - truth)[:, :AHEAD] ** 2).mean())


def _show(lab: Lab, held: np.ndarray, shown: dict) -> None:
    """One clip of each task, of the unified model and of each specialist."""

    def rgb(clip: np.ndarray) -> np.ndarray:
        return to_uint8(np.concatenate([clip, np.full_like(clip[..., :1], -1)], axis=-1))

    cells = [
        {"truth": rgb(held[0])} | {arm: rgb(made[task][0, 0]) for arm, made in shown.items()} for task in toy.TASKS
    ]
    lab.show("samples", cells, list(toy.TASKS), frames=toy.FRAMES, height=40)


def _generation(m) -> float:
    """Not a number where the specialist has not learned to make valid motion: to be no worse would say nothing."""
    return m["unified/valid"] / m["generation/valid"] if m["generation/valid"] >= LEARNED else float("nan")


def _elsewhere(m) -> float:
    """The smallest ratio of a specialist's error on a task that is not its own to that of the unified model."""
    pairs = [("interpolation", "prediction"), ("generation", "prediction"), ("prediction", "interpolation")]
    pairs += [("generation", "interpolation")]
    return min(m[f"{arm}/{task}"] / m[f"unified/{task}"] for arm, task in pairs)


CLAIM = Claim(
    says="one model trained on masks is within a tenth of specialists at each task, and of no use are they elsewhere",
    measure=measure,
    checks=(
        Check(
            "prediction",
            "error of frames 9 to 12, unified over specialist",
            lambda m: m["unified/prediction"] / m["prediction/prediction"],
            most=1.1,
        ),
        Check(
            "interpolation",
            "error of the frames between, unified over specialist",
            lambda m: m["unified/interpolation"] / m["interpolation/interpolation"],
            most=1.1,
        ),
        Check(
            "generation",
            "share of clips from nothing that are valid motion, unified over specialist",
            _generation,
            least=0.9,
        ),
        Check("elsewhere", "error of a specialist at another's task over the unified model's", _elsewhere, least=2.0),
        Check(
            "concatenation",
            "error of prediction, given frames as frames over pooled into adaLN",
            lambda m: m["prediction/prediction"] / m["adaln/prediction"],
            most=0.85,
        ),
        Check(
            "time",
            "error of prediction, without attention over time over with it",
            lambda m: m["still/prediction"] / m["prediction/prediction"],
            least=2.0,
        ),
    ),
)
