"""Every score tells defective clips of the world `scenes` from clean ones after H.264, at an AUC of 0.95 and more."""

import math

import numpy as np
import pytest

from data_pipelines.curation.scores.calibrate import TASKS, area, calibrate
from data_pipelines.curation.scores.known import SCORERS, choose_scorers
from data_pipelines.curation.scores.overlay import Overlay
from data_pipelines.worlds.scenes.labels import ScenesConfig

pytest.importorskip("cv2", reason="the extra `curate` is not installed")

OTHERS = tuple(scorer for scorer in SCORERS if scorer.name not in ("overlay", "fingerprint"))


@pytest.fixture(scope="module")
def calibrated():
    """Rich in defects, so that few clips do: about eight of each kind."""
    config = ScenesConfig(height=64, width=80, frames=32, clean=0.2, duplicates=0.0)
    return {found.task.column: found for found in calibrate(config, 90, seed=3, crf=26, scorers=OTHERS)}


@pytest.mark.parametrize("task", [task for task in TASKS if task.column != "overlay"], ids=lambda task: task.column)
def test_scores_tell_defects(calibrated, task):
    found = calibrated[task.column]
    assert found.clean >= 40
    assert found.defective >= 2
    assert found.auc >= 0.95, found


def test_marks_are_told_where_the_camera_moves():
    """Six seconds, so that most scenes move away from behind a mark."""
    config = ScenesConfig(height=64, width=64, frames=48, clean=0.3, duplicates=0.0, defects=("watermark", "letterbox"))
    (found,) = calibrate(config, 40, seed=2, scorers=(Overlay(),))
    assert found.defective >= 5
    assert found.clean >= 10
    assert found.auc >= 0.95, found


def test_every_task_is_of_a_known_column():
    columns = [column.name for scorer in SCORERS for column in scorer.columns]
    assert len(set(columns)) == len(columns)
    assert {task.column for task in TASKS} <= set(columns)
    assert [scorer.name for scorer in choose_scorers("bars, text")] == ["bars", "text"]


def test_area_is_the_chance_of_the_right_order():
    rng = np.random.default_rng(0)
    bad, good = rng.integers(0, 6, 40) + 1.0, rng.integers(0, 6, 30) + 0.0
    counted = np.mean([(b > g) + (b == g) / 2 for b in bad for g in good])
    assert area(bad, good) == pytest.approx(counted)
    assert math.isnan(area(bad, good[:0]))
