"""Tells what was done to a clip of the world `degrade`, given its clean twin, and how near a restored clip comes.

Analysis by synthesis: with the residual e = y - x of a clip y and its clean twin x, each kind that has no randomness is
done to x at a grid of strengths; the one that leaves least of y unexplained is the answer if that is little,

    |y - s(x)|^2 <= EXPLAINED |e|^2.

Noise is what is left when none does: a residual without correlation between neighbours, which also does not follow the
picture's edges.  Anything else is nothing that this world does, and None.

Shape legend: T frames, H height, W width.
"""

import dataclasses
import itertools

import numpy as np

from data_pipelines.worlds.degrade import world as degrade
from data_pipelines.worlds.degrade.world import STRENGTHS, WHOLE, DegradeConfig, Step
from data_pipelines.worlds.drawing.pictures import luminance
from data_pipelines.worlds.world import right, wrong
from vdm_jax.media.figures import Figure

EXPLAINED = 0.06  # of the residual's energy, that may be left
UNTOUCHED = 0.7  # levels: a smaller residual is rounding
WHITE = 0.05  # correlation of neighbours in a residual that is noise, at most; more in tiny clips, by chance
CLOSE = 0.15  # relative error of a strength that counts as right; of a rate factor or a scale: none
READ_FRAMES = 4  # are enough where frames are degraded one by one


@dataclasses.dataclass(frozen=True)
class Reading:
    """What was done.  `kind` is None where nothing, or nothing of this world, was; `strength` goes with it."""

    kind: str | None
    strength: float | None


def read(video: np.ndarray, clean: np.ndarray) -> Reading:
    """Tells the one step that leads from a clean clip to another.

    Args:
      video, clean: uint8 [T, H, W, 3].

    Raises:
      ValueError: shapes or dtypes differ or are others.
    """
    for name, value in (("video", video), ("clean", clean)):
        if value.dtype != np.uint8 or value.ndim != 4 or value.shape != clean.shape or value.shape[-1] != 3:
            raise ValueError(
                f"{name}: expected uint8 [T, H, W, 3] like the other, got {value.dtype} {list(value.shape)}"
            )
    residual = video.astype(np.float32) - clean
    energy = float((residual**2).mean())
    if energy < UNTOUCHED**2:
        return Reading(None, None)
    tried = [(unexplained, step) for step in _candidates() for unexplained in (_left(video, clean, step),)]
    left, best = min(tried, key=lambda found: found[0])
    if left <= EXPLAINED * energy:
        return Reading(best.kind, best.strength)
    neighbours = [_together(residual, axis) for axis in (0, 1, 2) if residual.shape[axis] > 1]
    white = max(WHITE, 4 / residual.size**0.5)
    if max(map(abs, neighbours)) < white and abs(_together_with_edges(residual, clean)) < 4 * white:
        inner = (clean > 60) & (clean < 195)  # where nothing is clipped
        return Reading("noise", float(np.std(residual[inner])) if inner.any() else float(np.sqrt(energy)))
    return Reading(None, None)


def agree(reading: Reading, step: Step) -> dict[str, bool]:
    """{"kind", "strength": bool}: whether that was done, and about so much of it."""
    same = reading.kind == step.kind
    off = 0.5 if step.kind in WHOLE else CLOSE * step.strength
    return {"kind": same, "strength": same and abs(reading.strength - step.strength) < off}


def psnr(video: np.ndarray, clean: np.ndarray) -> float:
    """Peak signal-to-noise ratio of a clip to its clean twin in dB; infinite if they are equal."""
    error = float(((video.astype(np.float32) - clean.astype(np.float32)) ** 2).mean())
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def check(config: DegradeConfig, clips: int = 256, seed: int = 0) -> list[Figure]:
    """Reads single steps, which must be what was done, and corrupted pairs, of which nothing may be said.

    Corruptions: the twin of another clip, the clean clip itself, the twin in reversed order, and the twin with its
    channels swapped.

    Raises:
      ValueError: chains of several steps, of which the oracle does not tell the members.
    """
    if config.steps != (1, 1):
        raise ValueError(f"steps: {config.steps!r}; the oracle of degrade reads chains of one step, (1, 1)")
    made = [degrade.clip(config, i, seed) for i in range(clips)]
    pairs = [(example.video, example.fields["clean"]) for example in made]
    rows = [agree(read(*pair), Step(**example.attributes["steps"][0])) for pair, example in zip(pairs, made)]
    some = pairs[: max(2, clips // 4)]
    corrupted = {
        "other_twin": [(video, other) for (video, _), (_, other) in itertools.pairwise(some)],
        "untouched": [(clean, clean) for _, clean in some],
        "swapped_channels": [(video, clean[..., [1, 2, 0]]) for video, clean in some],
        "inverted": [(255 - video, clean) for video, clean in some],
    }
    return [
        *(right(key, [row[key] for row in rows]) for key in ("kind", "strength")),
        *(wrong(name, [read(*pair).kind is not None for pair in bad]) for name, bad in corrupted.items()),
    ]


def _candidates() -> list[Step]:
    """Steps without randomness, over the strengths of the world."""
    low, high = STRENGTHS["blur"]
    blurs = [Step("blur", round(float(s), 3)) for s in np.geomspace(low, high, 12)]
    return blurs + [Step(kind, float(s)) for kind in WHOLE for s in range(*_closed(STRENGTHS[kind]))]


def _closed(bounds: tuple[float, float]) -> tuple[int, int]:
    return int(bounds[0]), int(bounds[1]) + 1


def _left(video: np.ndarray, clean: np.ndarray, step: Step) -> float:
    """Mean square of what a step leaves unexplained."""
    if step.kind != "compress":  # each frame for itself
        chosen = np.unique(np.linspace(0, len(clean) - 1, READ_FRAMES).astype(int))
        video, clean = video[chosen], clean[chosen]
    again = degrade.degrade(clean, step, np.random.default_rng(0))
    return float(((again.astype(np.float32) - video) ** 2).mean())


def _together(residual: np.ndarray, axis: int) -> float:
    """Correlation of neighbours along a dim."""
    values = np.moveaxis(residual - residual.mean(), axis, 0)
    return float((values[1:] * values[:-1]).mean() / max(float((values**2).mean()), 1e-6))


def _together_with_edges(residual: np.ndarray, clean: np.ndarray) -> float:
    """Correlation of the residual's size with the steepness of the picture."""
    luma = luminance(clean)
    steep = np.abs(np.diff(luma, axis=1, append=luma[:, -1:])) + np.abs(np.diff(luma, axis=2, append=luma[:, :, -1:]))
    return float(np.corrcoef(np.abs(residual).mean(-1).ravel(), steep.ravel())[0, 1])
