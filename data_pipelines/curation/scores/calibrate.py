"""How well scores tell defective clips from clean ones, on the world `scenes`, whose defects are known exactly.

Clips are drawn, encoded as H.264, decoded and scored as any source is.  For each score the area under the ROC curve is
the chance that a clip with the defect gets the worse score than one without,

    AUC = P(score of a defective clip > score of a clean one) + P(equal) / 2.
"""

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from data_pipelines.curation.probe import probe
from data_pipelines.curation.scores.known import SCORERS
from data_pipelines.curation.scores.protocol import Sample, Scorer
from data_pipelines.curation.scores.sampling import SampleSettings, sample_spans
from data_pipelines.curation.source import Span
from data_pipelines.worlds.scenes.labels import SceneLabels, ScenesConfig
from data_pipelines.worlds.scenes.world import render
from vdm_jax.media.video import encode_mp4

WHOLE = SampleSettings(head=0)  # labels hold for all of a clip, so all of it is looked at


@dataclasses.dataclass(frozen=True)
class Task:
    """What a score shall tell.

    Attributes:
      column: the score.
      defects: of `labels.DEFECTS`; a clip with any of them is defective.
      apart: clips with one of these are not asked about: the same defect in another guise, or one that hides it.
      worse: 1 if defective clips have the higher score, -1 if the lower.
      travel: shorter sides that the camera moves in a clip, at least, for the clip to be asked about.
    """

    column: str
    defects: tuple[str, ...]
    apart: tuple[str, ...] = ()
    worse: int = 1
    travel: float = 0.0


TASKS = (
    Task("motion", ("still", "slide"), ("freeze",), -1),
    Task("still", ("still", "slide"), ("freeze",)),
    Task("held", ("freeze", "still", "slide")),
    Task("text", ("subtitle", "title", "slide"), ("watermark",)),
    Task("overlay", ("watermark",), ("subtitle", "title", "slide", "bright"), travel=0.15),
    Task("blur", ("blur",), ("slide",)),
    Task("highlights", ("dark",), (), -1),
    Task("clipped_white", ("bright",), ("flash",)),
    Task("letterbox", ("letterbox",), ("slide",)),
    Task("pillarbox", ("pillarbox",), ("slide",)),
    Task("flicker", ("flicker",)),
    Task("flash", ("flash",), ("flicker",)),
)


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """How a score did.

    Attributes:
      task: what it was asked.
      auc: area under the ROC curve; NaN if there were no such clips.
      defective, clean: number of clips.
      limit: the score that separates them best (largest mean of both rates of right answers).
    """

    task: Task
    auc: float
    defective: int
    clean: int
    limit: float


def calibrate(
    config: ScenesConfig, count: int, *, seed: int = 0, crf: int = 23, scorers: tuple[Scorer, ...] = SCORERS
) -> list[Calibrated]:
    """Measures every task whose score is among those of the scorers.

    Args:
      config: what clips are like; they have one shot, as clips have after cutting.
      count: of clips.
      seed: of the world.
      crf: of H.264, 0 (best) to 51.
      scorers: to measure.
    """
    scored = []
    for labels, sample in labelled_samples(dataclasses.replace(config, shots=1), count, seed, crf):
        scores = {name: value for scorer in scorers for name, value in scorer.score(sample).items()}
        scored.append((labels, scores))
    columns = {column.name for scorer in scorers for column in scorer.columns}
    return [_judge(task, scored) for task in TASKS if task.column in columns]


def labelled_samples(config: ScenesConfig, count: int, seed: int, crf: int) -> Iterator[tuple[SceneLabels, Sample]]:
    """Clips of the world after H.264, as scorers see them."""
    with tempfile.TemporaryDirectory(prefix="vdm-calibrate-") as folder:
        path = Path(folder) / "clip.mp4"
        for index in range(count):
            pixels, labels = render(config, index, seed)
            path.write_bytes(encode_mp4(pixels, config.fps, crf=crf))
            facts = probe(path)
            for _, sample in sample_spans(path, [Span(0, facts.duration)], WHOLE, facts.keyframes):
                yield labels, sample


def area(defective: np.ndarray, clean: np.ndarray) -> float:
    """Area under the ROC curve of scores of which higher is worse; NaN if one of the two is empty."""
    if not len(defective) or not len(clean):
        return float("nan")
    clean = np.sort(clean)
    below, upto = np.searchsorted(clean, defective, "left"), np.searchsorted(clean, defective, "right")
    return float((below + upto).mean() / (2 * len(clean)))


def _judge(task: Task, scored: Iterable[tuple[SceneLabels, dict]]) -> Calibrated:
    defective, clean = [], []
    for labels, scores in scored:
        if labels.camera_motion.sum() < task.travel:
            continue
        kinds = {defect.kind for defect in labels.defects}
        if kinds & set(task.defects):
            if not kinds & (set(task.apart) - set(task.defects)):
                defective.append(scores[task.column])
        elif not kinds & set(task.apart):
            clean.append(scores[task.column])
    bad, good = task.worse * np.array(defective), task.worse * np.array(clean)
    levels = np.unique(np.concatenate([bad, good]))
    between = (levels[1:] + levels[:-1]) / 2 if len(levels) > 1 else levels
    right = [(bad > level).mean() + (good <= level).mean() for level in between] if len(bad) and len(good) else []
    limit = task.worse * float(between[int(np.argmax(right))]) if right else float("nan")
    return Calibrated(task, area(bad, good), len(bad), len(good), limit)
