"""Go-with-the-Flow's claims (arXiv 2501.08331): noise that moves and stays white, in real time; and control by it.

A  Exact flow at 128x128, 16 frames: this noise, lookups (nearest, bilinear) and independent noise.
B  A base is trained on, equally many steps, with warped noise and with independent noise; both are given noise warped
   by the flow of held-out clips, and the digit must go where the flow says.
"""

import jax
import numpy as np

from data_pipelines.worlds.digits import oracle
from vdm_jax.evaluation.claims import Check, Claim, Lab
from vdm_jax.media.grid import to_uint8
from vdm_jax.sampling.noise import INDEPENDENT

from . import toy, whiteness

HELD = 96  # clips whose flow is asked for
SHOWN = (0, 9, 18, 27)  # of these, in the picture: other digits and headings
DEGRADATIONS = (0.0, 0.5, 1.0)
OTHERS = ("nearest", "bilinear", "independent")
MOTIONS = tuple(whiteness.flows())


def measure(lab: Lab) -> dict[str, float]:
    """Both claims, one seed."""
    measured, zoomed = whiteness.measure(lab.seed)
    measured |= whiteness.speed()
    lab.say(", ".join(f"{name} {measured[name]:.0f}" for name in ("fps/64", "fps/512_to_64", "fps/bilinear_64")))
    data, held = toy.clips(toy.CLIPS, 1 + lab.seed), toy.clips(HELD, 1000 + lab.seed)
    steps, start, shown = lab.pick(400, 1500), lab.base(toy.base()), {}
    for arm, noise in (("warped", toy.warped()), ("plain", INDEPENDENT)):
        fitted = toy.train(noise, data, steps, lab.seed, start)
        measured[f"{arm}/loss"] = float(fitted.losses["train"][-50:].mean())
        for degradation in DEGRADATIONS if arm == "warped" else (0.0, 1.0):
            generate = toy.sampler(fitted.networks, degradation)
            video = np.asarray(generate(fitted.params, HELD, jax.random.key(lab.seed), {"flow": held["flow"]}))
            name = f"{arm}/g{degradation:g}"
            measured[f"{name}/error"] = end_point_error(video, held)
            measured |= {f"{name}/{key}": value for key, value in quality(video).items()}
            shown[name] = video
            lab.say(f"{name}: " + ", ".join(f"{measured[f'{name}/{k}']:.3f}" for k in ("error", "alike", "read")))
    real = held["video"].astype(np.float32) / 127.5 - 1
    measured["real/error"] = end_point_error(real, held)
    measured |= {f"real/{key}": value for key, value in quality(real).items()}
    _show(lab, real, shown, zoomed)
    return measured


def end_point_error(video: np.ndarray, held) -> float:
    """Pixels between the step that the digit takes from frame to frame and the one that the flow asks for."""
    wanted = np.diff(held["track"], axis=1)
    return float(np.linalg.norm(np.diff(toy.places(video), axis=1) - wanted, axis=-1).mean())


def quality(video: np.ndarray) -> dict[str, float]:
    """Of frames as pictures of digits: likeness to handwritten ones, and the share of clips in which one is read."""
    readings = [max(found, key=lambda r: r.similarity, default=None) for found in oracle.read(video, toy.WORLD)]
    return {
        "alike": float(np.mean([0.0 if r is None else r.similarity for r in readings])),
        "read": float(np.mean([r is not None and r.digit is not None for r in readings])),
    }


def _show(lab: Lab, real: np.ndarray, shown: dict, zoomed: dict) -> None:
    names = {
        "warped/g0": "warped noise, g = 0",
        "warped/g0.5": "g = 0.5",
        "warped/g1": "g = 1",
        "plain/g0": "trained on plain noise",
    }
    cells = [
        {"flow of": to_uint8(real[i])} | {label: to_uint8(shown[name][i]) for name, label in names.items()}
        for i in SHOWN
    ]
    lab.show(
        "control",
        cells,
        ["a held-out clip, and samples whose noise follows its flow"] * len(SHOWN),
        height=48,
        columns=2,
    )
    noise = {name: to_uint8(np.clip(value[:, 32:96, 32:96] / 3, -1, 1)) for name, value in zoomed.items()}
    lab.show("noise", [noise], ["noise that zooms in by 5 % a frame"], frames=6, height=128)


def _worst(method: str, number: str, from_one: bool = False):
    return lambda m: max(abs(m[f"{method}/{motion}/{number}"] - from_one) for motion in MOTIONS)


def _others_that_do_both(m) -> int:
    """Methods that are white on every flow and yet follow a translation."""
    white = [o for o in OTHERS if _worst(o, "variance", True)(m) <= 0.02 and _worst(o, "neighbours")(m) <= 0.02]
    return sum(m[f"{other}/translation/follows"] > 0.5 for other in white)


CLAIM = Claim(
    says="noise can be moved along flow in real time and stay white, and a model tuned on it moves things as it does",
    measure=measure,
    checks=(
        Check("variance", "distance of the variance from 1, worst motion", _worst("ours", "variance", True), most=0.02),
        Check("white", "correlation of neighbours, worst motion", _worst("ours", "neighbours"), most=0.02),
        Check("normal", "Kolmogorov-Smirnov distance to N(0, 1), worst motion", _worst("ours", "ks"), most=0.02),
        Check(
            "follows",
            "correlation with the frame before along a whole-pixel translation",
            lambda m: m["ours/translation/follows"],
            least=0.5,
        ),
        Check("only", "other methods that are white on all motions and follow", _others_that_do_both, most=0),
        Check(
            "bilinear",
            "variance of bilinear noise after one step of half a pixel",
            lambda m: m["bilinear/half_pixel/second_variance"],
            least=0.45,
            most=0.55,
        ),
        Check(
            "nearest",
            "correlation of neighbours of nearest noise after zooming in",
            lambda m: m["nearest/zoom_in/neighbours"],
            least=0.1,
        ),
        Check("speed", "frames a second, 64x64x16, one core", lambda m: m["fps/64"], least=24, every_seed=True),
        Check(
            "control",
            "end-point error at g = 0, tuned on warped noise over tuned on plain noise",
            lambda m: m["warped/g0/error"] / m["plain/g0/error"],
            most=0.5,
        ),
        Check(
            "looser",
            "end-point error added from g = 0 to 0.5 and from 0.5 to 1, the smaller one",
            lambda m: float(np.diff([m[f"warped/g{g:g}/error"] for g in DEGRADATIONS]).min()),
            least=0,
        ),
        Check(
            "quality",
            "likeness of frames to digits, warped noise over plain noise, each from its own",
            lambda m: m["warped/g0/alike"] / m["plain/g1/alike"],
            least=0.95,
        ),
    ),
)
