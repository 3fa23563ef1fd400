"""Schedules are functions of the step alone; callbacks write what they are told to."""

import numpy as np
import pytest

from vdm_jax.training.callbacks import Evaluate, Event, EveryN, LogConfig, Once, SampleVideos


class Notes:
    """A writer that remembers."""

    def __init__(self):
        self.scalars, self.videos = [], []

    def write_scalars(self, step, scalars):
        self.scalars.append((step, dict(scalars)))

    def write_videos(self, step, videos, fps):
        self.videos.append((step, {name: video.shape for name, video in videos.items()}, fps))


def due(schedule, steps: int) -> list[int]:
    return [step for step in range(1, steps + 1) if schedule(step, step == steps)]


def test_every_n_and_the_last():
    assert due(EveryN(4), 10) == [4, 8, 10]
    assert due(EveryN(4, also_last=False), 10) == [4, 8]
    assert due(EveryN(5), 10) == [5, 10]
    assert due(EveryN(None), 10) == []


def test_once():
    assert due(Once(3), 10) == [3]


def test_what_means_nothing_is_refused():
    with pytest.raises(ValueError, match="n: 0 is not a number of steps"):
        EveryN(0)
    with pytest.raises(ValueError, match="eval_every: -1"):
        LogConfig(eval_every=-1)


def test_evaluation_is_written_under_its_prefix():
    notes = Notes()
    Evaluate(EveryN(1), lambda state: {"loss": np.float32(state)}, prefix="held_out")(Event(7, 0.5, notes, False))
    assert notes.scalars == [(7, {"held_out/loss": 0.5})]


def test_videos_go_to_the_summaries_and_to_files():
    notes, files = Notes(), []
    videos = {"ema": np.zeros((2, 3, 4, 5, 3), np.uint8)}
    callback = SampleVideos(EveryN(1), lambda state: videos, fps=4.0, save=lambda *what: files.append(what))
    callback(Event(7, None, notes, False))
    assert notes.videos == [(7, {"samples/ema": (2, 3, 4, 5, 3)}, 4.0)]
    ((step, name, saved),) = files
    assert (step, name, saved.shape) == (7, "ema", (2, 3, 4, 5, 3))
