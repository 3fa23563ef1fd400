"""Go-with-the-Flow's claims (arXiv 2501.08331): noise that moves and stays white, in real time; and control by it.

A  Exact flow at 128x128, 16 frames: this noise, lookups (nearest, bilinear) and independent noise.
B  A base is trained on, equally many steps, with warped noise and with independent noise; both are given noise warped
   by the flow of held-out clips, and the digit must go where the flow says.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.evaluation.claims import Check, Claim, Lab
from vdm_jax.evaluation.noise import follows, frames_a_second, looked_up, motions, whiteness
from vdm_jax.evaluation.places import bright_places
from vdm_jax.media.grid import to_uint8
from vdm_jax.sampling.noise import INDEPENDENT
from vdm_jax.sampling.noise.warping import warp_noise

from . import toy

SIDE, FRAMES, CHANNELS = 128, 16, 8  # of A
MOTIONS = motions(SIDE, FRAMES)
METHODS = {
    "ours": lambda key, flow: warp_noise(key, flow, (SIDE, SIDE), CHANNELS),
    "nearest": partial(looked_up, channels=CHANNELS, mode="nearest"),
    "bilinear": partial(looked_up, channels=CHANNELS, mode="bilinear"),
    "independent": lambda key, flow: jax.random.normal(key, (FRAMES, SIDE, SIDE, CHANNELS)),
}
HELD = 96  # clips whose flow is asked for
SHOWN = (0, 9, 18, 27)  # of these, in the picture: other digits and headings
ARMS = {"warped": (toy.WARPED, (0.0, 0.5, 1.0)), "plain": (INDEPENDENT, (0.0, 1.0))}  # noise, degradations


def measure(lab: Lab) -> dict[str, float]:
    """Both claims, one seed."""
    measured = noise(lab) | speed(lab)
    data, held = toy.clips(toy.CLIPS, 1 + lab.seed), toy.clips(HELD, 1000 + lab.seed)
    steps, start, shown = lab.pick(800, 4000), lab.base(toy.base()), {"real": held["video"]}
    for arm, (source, degradations) in ARMS.items():
        fitted = toy.train(source, data, steps, lab.seed, start)
        measured[f"{arm}/loss"] = float(fitted.losses["train"][-50:].mean())
        for degradation in degradations:
            generate = toy.sampler(fitted.networks, degradation)
            video = generate(fitted.params, HELD, jax.random.key(lab.seed), {"flow": held["flow"]})
            shown[f"{arm}/g{degradation:g}"] = np.asarray(video)
    for name, video in shown.items():
        measured[f"{name}/error"] = end_point_error(video, held["track"])
        measured[f"{name}/alike"] = likeness(video, data["video"])
        lab.say(f"{name}: error {measured[f'{name}/error']:.3f}, alike {measured[f'{name}/alike']:.3f}")
    _show_control(lab, shown)
    return measured


def noise(lab: Lab) -> dict[str, float]:
    """`{method/motion/number}` of the last frame, and how well the second one follows the first."""
    found, zoomed = {}, {}
    for method, make in METHODS.items():

        @jax.jit
        def run(key, flow, make=make):
            made = make(key, flow)
            numbers = whiteness(made[-1]) | {"follows": follows(made[0], made[1], flow[0])}
            return numbers | {"second_variance": made[1].var()}, made[..., :3]

        for motion, flow in MOTIONS.items():
            values, made = run(jax.random.key(lab.seed), flow)
            found |= {f"{method}/{motion}/{name}": float(value) for name, value in values.items()}
            if motion == "zoom_in":
                zoomed[method] = to_uint8(np.clip(np.asarray(made)[:, 32:96, 32:96] / 3, -1, 1))
    lab.show("noise", [zoomed], ["noise that zooms in by 5 % a frame"], frames=6, height=128)
    return found


def speed(lab: Lab) -> dict[str, float]:
    """Frames a second of latents of 64x64 with 16 channels, on the one core that a seed has."""
    flow = jnp.asarray(MOTIONS["wave"])[:, :64, :64]
    rates = {
        "fps/64": frames_a_second(lambda key, flow: warp_noise(key, flow, (64, 64), 16), flow),
        "fps/512_to_64": frames_a_second(lambda key, flow: warp_noise(key, flow, (64, 64), 16, 8), flow[:2], 2),
        "fps/bilinear_64": frames_a_second(partial(looked_up, channels=16, mode="bilinear"), flow),
    }
    lab.say(", ".join(f"{name} {rate:.3g}" for name, rate in rates.items()))
    return rates


def end_point_error(video: np.ndarray, track: np.ndarray) -> float:
    """Pixels of the clip between the step that the digit takes from frame to frame and the one that is asked for."""
    steps = np.diff(bright_places(video, 2.0, power=1.0)[..., 0, :], axis=1)
    return float(np.linalg.norm(steps - np.diff(track, axis=1), axis=-1).mean())


def likeness(video: np.ndarray, real: np.ndarray) -> float:
    """Of frames to the most similar real one (cosine), on average."""
    lights = (np.clip((x + 1) / 2, 0, 1).reshape(-1, toy.SIDE**2) for x in (video, real[:2000]))
    frames, bank = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6) for x in lights)
    return float((frames @ bank.T).max(1).mean())


def _show_control(lab: Lab, shown: dict[str, np.ndarray]) -> None:
    names = {
        "real": "flow of",
        "warped/g0": "warped noise, g = 0",
        "warped/g0.5": "g = 0.5",
        "warped/g1": "g = 1",
        "plain/g0": "trained on plain noise",
    }
    cells = [{label: to_uint8(shown[name][i].repeat(3, -1)) for name, label in names.items()} for i in SHOWN]
    caption = "a held-out clip, and samples whose noise follows its flow"
    lab.show("control", cells, [caption] * len(SHOWN), height=48, columns=2)


def _worst(method: str, number: str, ideal: float = 0.0):
    return lambda m: max(abs(m[f"{method}/{motion}/{number}"] - ideal) for motion in MOTIONS)


def _others_that_do_both(m) -> int:
    """Methods that are white on every flow and yet follow a translation."""
    others = [method for method in METHODS if method != "ours"]
    white = [o for o in others if _worst(o, "variance", 1.0)(m) <= 0.02 and _worst(o, "neighbours")(m) <= 0.02]
    return sum(m[f"{other}/translation/follows"] > 0.5 for other in white)


def _steps_with_g(m) -> float:
    errors = [m[f"warped/g{g:g}/error"] for g in ARMS["warped"][1]]
    return float(np.diff(errors).min())


CLAIM = Claim(
    says="noise can be moved along flow in real time and stay white, and a model tuned on it moves things as it does",
    measure=measure,
    checks=(
        Check("variance", "distance of the variance from 1, worst motion", _worst("ours", "variance", 1.0), most=0.02),
        Check("white", "correlation of neighbours, worst motion", _worst("ours", "neighbours"), most=0.02),
        Check("normal", "Kolmogorov-Smirnov distance to N(0, 1), worst motion", _worst("ours", "ks"), most=0.02),
        Check("follows", "correlation with the frame before along a whole-pixel translation",
              lambda m: m["ours/translation/follows"], least=0.5),
        Check("only", "other methods that are white on all motions and follow", _others_that_do_both, most=0),
        Check("bilinear", "variance of bilinear noise after one step of half a pixel",
              lambda m: m["bilinear/half_pixel/second_variance"], least=0.45, most=0.55),
        Check("nearest", "correlation of neighbours of nearest noise after zooming in",
              lambda m: m["nearest/zoom_in/neighbours"], least=0.1),
        Check("speed", "frames a second, 64x64x16, one core", lambda m: m["fps/64"], least=24, every_seed=True),
        Check("control", "end-point error at g = 0, tuned on warped noise over tuned on plain noise",
              lambda m: m["warped/g0/error"] / m["plain/g0/error"], most=0.5),
        Check("looser", "end-point error added from g = 0 to 0.5 and from 0.5 to 1, the smaller one",
              _steps_with_g, least=0),
        Check("quality", "likeness of frames to real ones, warped noise over plain noise, each from its own",
              lambda m: m["warped/g0/alike"] / m["plain/g1/alike"], least=0.95),
    ),
)  # fmt: skip
