"""AnimateLCM at toy scale: the base `motion_dit` made to sample in four steps, by pictures and by degraded clips.

stages    pairs of rank 16 beside the spatial blocks, on clean frames, with the network of pictures for a teacher; then
          the temporal blocks, on degraded clips, with the network of videos for a teacher, a student that begins with
          the pairs merged and a target that begins without
together  pairs and temporal blocks at once, on degraded clips, in as many steps
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.adapters.lora import beside, merged
from vdm_jax.diffusion import DDIM, LCM, ConsistencyGrid
from vdm_jax.evaluation.places import bright_places
from vdm_jax.objectives.consistency import ConsistencyObjective, GuidanceRange
from vdm_jax.sampling.denoiser import make_denoiser
from vdm_jax.sampling.guidance import guided
from vdm_jax.sampling.sampler import Hooks, sample
from vdm_jax.sampling.tau import uniform
from vdm_jax.training.ema import EMAConfig
from vdm_jax.training.fit import Fitted, Trainer, batches
from vdm_jax.training.optimizer import OptimizerConfig
from vdm_jax.training.recipe import Recipe, Stage, Target, Update
from vdm_jax.training.state import define, overlay

GRID = ConsistencyGrid(steps=20)  # each takes the target's horizon, 20 updates, to learn from the one below it
GUIDANCE, DECAY, RATE = 1.5, 0.95, 3e-4
CLIPS, FRAMES = 24, 128  # of a batch of clips, and of one of pictures


def distilled(marked: Any, data: dict[str, np.ndarray], steps: int, seed: int, networks: dict[str, Any], trains, pairs):
    """Consistency distillation; the networks are those of one stage.

    Args:
      marked: the module of the base.
      data: clips or pictures.
      steps, seed: of training.
      networks: parameters of `backbone`, `target` and `teacher`, the first two without their pairs.
      trains: patterns of what trains.
      pairs: of student and target; None for none.

    Returns:
      The student's parameters, averaged over the last steps.
    """
    objective = ConsistencyObjective(
        marked.denoising(), GRID, GuidanceRange(GUIDANCE, GUIDANCE), guides=marked.CONDITIONS
    )
    optimizer = OptimizerConfig("adamw", learning_rate=RATE, schedule="wsd", warmup=20, weight_decay=0.0)
    update = Update("distill", objective, optimizer, (*trains, "!teacher"))
    recipe = Recipe((Stage("distill", (update,), steps, (Target("target", "backbone", DECAY),)),))

    def make(rngs):
        students = {name: marked.network(rngs, pairs) for name in ("backbone", "target")}
        return {**students, "teacher": marked.network(rngs)}

    trainer = Trainer(make, recipe, EMAConfig((DECAY,)))
    drawn = trainer.init(seed)
    start = {name: overlay(drawn[name], params) for name, params in networks.items()}
    if pairs is not None:  # both begin with the same ones
        start["target"] = overlay(start["backbone"], networks["target"])
    start = jax.tree.map(jnp.copy, start)  # donated: no array twice
    size = FRAMES if data["video"].shape[1] == 1 else CLIPS
    fitted: Fitted = trainer.run(batches({k: jnp.asarray(v) for k, v in data.items()}, size, seed), seed, start)
    return fitted.params["backbone"], float(fitted.losses["distill"][-100:].mean())


def drawer(marked: Any, steps: int, student: bool) -> Callable[..., jax.Array]:
    """`draw(params, label, heading, key) -> [B, *SHAPE]`: LCM without guidance, or DDIM with it."""
    process, definition = marked.PROCESS, define(lambda rngs: {"backbone": marked.network(rngs)})
    levels = GRID.sampled(process, steps) if student else process.levels(steps)
    options = {"solver": LCM(GRID.scaling) if student else DDIM()}
    hooks = Hooks(edit_x0=lambda x0, x_t, info: jnp.clip(x0, -1.0, 1.0))

    @jax.jit
    def draw(params, label, heading, key):
        denoiser = make_denoiser(process, definition.merge({"backbone": params})["backbone"])
        if not student:
            denoiser = guided(denoiser, GUIDANCE, dict.fromkeys(marked.CONDITIONS, -1))
        first, loop = jax.random.split(key)
        start = process.prior(first, jnp.zeros((len(label), *marked.SHAPE)))
        cond = {"vector": {"label": label, "heading": heading}}
        tau = uniform(levels, marked.SHAPE[0])
        return sample(denoiser, process, start, tau, cond, rng=loop, hooks=hooks, **options)

    return draw


def headed(marked: Any, video: np.ndarray, heading: np.ndarray) -> float:
    """Share of the clips `[N, T, H, W, 3]` whose sprite's centre goes nearest to its heading; the mark is not seen."""
    seen = (video.max(-1, keepdims=True) + 1) * (1 - marked.mark()) - 1
    places = bright_places(seen)[..., 0, :]  # [N, T, 2]
    time = np.arange(places.shape[1]) - (places.shape[1] - 1) / 2
    way = np.einsum("ntd,t->nd", places, time)
    off = (np.degrees(np.arctan2(way[:, 1], way[:, 0])) - heading + 180) % 360 - 180
    return float((np.abs(off) < 45).mean())


def mark_seen(marked: Any, video: np.ndarray) -> float:
    """How visible the mark is: mean brightness of its corner over that of the mark, beside what sprites bring there."""
    corner = (video[:, :, : marked.MARK, : marked.MARK] + 1) * 127.5
    return float(corner.min(-1).mean() / marked.BRIGHT)  # no sprite has both colours, the mark has


@functools.cache
def _filters() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [(2, 3, 3, 2, 24), (2, 3, 3, 24, 48)]
    return [rng.normal(size=shape).astype(np.float32) / np.sqrt(np.prod(shape[:-1])) for shape in shapes]


def features(video: np.ndarray) -> np.ndarray:
    """What two random convolutions over time and space make of clips, averaged over each: `[N, 48]`."""
    x = jnp.asarray(video, jnp.float32)
    for kernel in _filters():
        dims = ("NDHWC", "DHWIO", "NDHWC")
        x = jax.nn.relu(jax.lax.conv_general_dilated(x, kernel, (2, 2, 2), "VALID", dimension_numbers=dims))
    return np.asarray(x.mean((1, 2, 3)))


def with_pairs(params: Any, pairs: Any, scale: float) -> Any:
    """The parameters with pairs of another network of the same layers merged in."""
    return merged(beside(params, pairs), scale)
