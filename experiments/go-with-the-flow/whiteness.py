"""How white noise stays when it is moved, how well it follows, and how fast it is made."""

import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.geometry import lands_inside, warp
from vdm_jax.sampling.noise.warping import warp_noise

SIDE, CHANNELS, FRAMES = 128, 8, 16
REPEATS = 4  # of every timing; the fastest counts, others share the machine


def flows() -> dict[str, np.ndarray]:
    """Exact flow `[15, 128, 128, 2]` of each motion."""
    y, x = np.indices((SIDE, SIDE)) + 0.5 - SIDE / 2
    turn = np.radians(2.0)
    still = np.zeros((SIDE, SIDE))
    steps = {
        "translation": (still + 2, still - 1),
        "half_pixel": (still + 0.5, still),
        "zoom_in": (0.05 * x, 0.05 * y),
        "zoom_out": (-0.05 * x, -0.05 * y),
        "rotation": (x * (np.cos(turn) - 1) - y * np.sin(turn), x * np.sin(turn) + y * (np.cos(turn) - 1)),
        "wave": (2.5 * np.sin(2 * np.pi * y / 32), 2.5 * np.sin(2 * np.pi * x / 32)),
    }
    return {k: np.stack([np.stack(v, -1)] * (FRAMES - 1)).astype(np.float32) for k, v in steps.items()}


def _lookup(mode: str) -> Callable:
    def make(key, flow):
        first = jax.random.normal(key, (SIDE, SIDE, CHANNELS))
        _, rest = jax.lax.scan(lambda z, move: (warp(z, -move, mode),) * 2, first, flow)
        return jnp.concatenate([first[None], rest])

    return make


METHODS: dict[str, Callable] = {
    "ours": lambda key, flow: warp_noise(key, flow, (SIDE, SIDE), CHANNELS),
    "nearest": _lookup("nearest"),
    "bilinear": _lookup("bilinear"),
    "independent": lambda key, flow: jax.random.normal(key, (FRAMES, SIDE, SIDE, CHANNELS)),
}


def numbers(noise: jax.Array, flow: jax.Array) -> dict[str, jax.Array]:
    """What the last frame is like, and how well the one after the first follows."""
    last = noise[-1]
    centred = last - last.mean()
    near = (centred[1:] * centred[:-1]).mean() + (centred[:, 1:] * centred[:, :-1]).mean()
    ordered = jnp.sort(last.reshape(-1))
    share = (jnp.arange(ordered.size) + 0.5) / ordered.size
    inside = lands_inside(flow[0])[..., None]
    there = warp(noise[1], flow[0], "nearest")
    scale = jnp.sqrt((inside * there**2).sum() * (inside * noise[0] ** 2).sum())
    return {
        "variance": last.var(),
        "neighbours": near / 2 / centred.var(),
        "ks": jnp.abs(jax.scipy.stats.norm.cdf(ordered) - share).max(),
        "follows": (inside * there * noise[0]).sum() / scale,
    }


def measure(seed: int) -> tuple[dict[str, float], Mapping[str, np.ndarray]]:
    """`{method/motion/number: value}`, and the zoomed noise of each method."""
    found, shown = {}, {}
    for method, make in METHODS.items():

        @jax.jit
        def run(key, flow, make=make):
            noise = make(key, flow)
            return numbers(noise, flow), noise[1].var(), noise[..., :3]

        for motion, flow in flows().items():
            values, second, noise = run(jax.random.key(seed), flow)
            found |= {f"{method}/{motion}/{name}": float(value) for name, value in values.items()}
            found[f"{method}/{motion}/second_variance"] = float(second)
            if motion == "zoom_in":
                shown[method] = np.asarray(noise)
    return found, shown


def speed() -> dict[str, float]:
    """Frames a second of latents of 64x64 with 16 channels, on the one core that a seed has."""

    def rate(make: Callable, flow: jax.Array) -> float:
        run, took = jax.jit(make), []
        for repeat in range(REPEATS + 1):  # the first one compiles
            begin = time.perf_counter()
            run(jax.random.key(repeat), flow).block_until_ready()
            took.append(time.perf_counter() - begin)
        return len(flow) / min(took[1:])

    def bilinear(key, flow):
        first = jax.random.normal(key, (64, 64, 16))
        return jax.lax.scan(lambda z, move: (warp(z, -move),) * 2, first, flow)[1]

    fine = jnp.asarray(flows()["wave"])[:, :64, :64]
    return {
        "fps/64": rate(lambda key, flow: warp_noise(key, flow, (64, 64), 16), fine),
        "fps/512_to_64": rate(lambda key, flow: warp_noise(key, flow, (64, 64), 16, 8), fine[:4]),
        "fps/bilinear_64": rate(bilinear, fine),
    }
