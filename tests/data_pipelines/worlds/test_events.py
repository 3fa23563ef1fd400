"""The world of events: reproducible, its stream follows the light to within the threshold, and the oracle tells."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.worlds.events import oracle as events_oracle
from data_pipelines.worlds.events import world as events
from data_pipelines.worlds.events.world import EventsConfig

CONFIG = EventsConfig(height=24, width=32, frames=4, substeps=4)


def test_clip_depends_on_its_index_alone():
    again = {i: events.clip(CONFIG, i, 3) for i in reversed(range(3))}
    for i in range(3):
        one = events.clip(CONFIG, i, 3)
        np.testing.assert_array_equal(one.video, again[i].video)
        np.testing.assert_array_equal(one.fields["events"], again[i].fields["events"])
    assert not np.array_equal(again[0].video, events.clip(CONFIG, 0, 4).video)


@pytest.mark.parametrize("size", [(16, 16, 1), (31, 17, 2), (16, 20, 128), (128, 128, 2)])
def test_every_size(size):
    config = EventsConfig(height=size[0], width=size[1], frames=size[2], substeps=2)
    example = events.clip(config, 0, 0)
    assert example.video.shape == (size[2], *size[:2], 3)
    assert len(example.fields["events"]) == example.attributes["events"] == example.fields["event_counts"].sum()


def test_a_ramp_is_told_at_the_exact_times():
    """Light that grows by 1 over two frames crosses 0.3, 0.6 and 0.9 at 0.6, 1.2 and 1.8."""
    levels = np.zeros((3, 1, 2), np.float32)
    levels[:, 0, 1] = (0, 0.5, 1.0)
    sent = events.sense(levels, np.arange(3), 0.3)
    np.testing.assert_allclose(sent, [[0.6, 1, 0, 1], [1.2, 1, 0, 1], [1.8, 1, 0, 1]], atol=1e-6)
    np.testing.assert_array_equal(events.count(sent, (3, 1, 2))[:, 0, 1], [[0, 1], [0, 2]])
    down = events.sense(-levels, np.arange(3), 0.3)
    np.testing.assert_allclose(down[:, :3], sent[:, :3])
    assert (down[:, 3] == -1).all()


def test_a_pixel_that_turns_back_must_pass_its_own_level_again():
    levels = np.array((0.0, 0.35, 0.2, -0.05), np.float32)[:, None, None]
    sent = events.sense(levels, np.arange(4), 0.3)
    np.testing.assert_allclose(sent, [[0.3 / 0.35, 0, 0, 1], [2.8, 0, 0, -1]], atol=1e-5)


def test_several_crossings_come_in_order_of_time():
    levels = np.zeros((2, 1, 3), np.float32)
    levels[1, 0] = (1.0, 0.25, -1.0)
    sent = events.sense(levels, np.arange(2), 0.2)
    assert (np.diff(sent[:, 0]) >= 0).all()
    assert [int((sent[:, 1] == x).sum()) for x in range(3)] == [5, 1, 5]


def test_the_stream_follows_the_light_within_the_threshold():
    for i in range(4):
        example = events.clip(CONFIG, i, 1)
        levels = events.log_luminance(example.video)
        told = events_oracle.remembered(example.video, example.fields["event_counts"], CONFIG.threshold)
        assert np.abs(levels - told).max() < 1.001 * CONFIG.threshold


def test_finer_steps_see_no_fewer_turns():
    """Light that flickers between two frames is seen by the sensor and not by the frames."""
    levels = np.array((0.0, 0.5, 0.0), np.float32)[:, None, None]
    assert len(events.sense(levels, np.array((0, 0.5, 1)), 0.2)) == 4
    assert not len(events.sense(levels[::2], np.array((0, 1)), 0.2))


def test_frames_are_those_of_any_number_of_substeps():
    once = events.clip(dataclasses.replace(CONFIG, substeps=1), 0, 2)
    often = events.clip(dataclasses.replace(CONFIG, substeps=8), 0, 2)
    assert np.abs(once.video.astype(int) - often.video).max() <= 2
    np.testing.assert_allclose(once.fields["flow"], often.fields["flow"], atol=1e-3)


def test_the_oracle_is_right_and_says_no_to_other_pairs():
    figures = {f.name: f for f in events_oracle.check(EventsConfig(height=40, width=40, frames=6, substeps=8), 20, 1)}
    assert all(f.ok for f in figures.values()), {n: f.value for n, f in figures.items()}


def test_the_oracle_needs_what_belongs_together():
    with pytest.raises(ValueError, match="frames: 1"):
        events_oracle.check(dataclasses.replace(CONFIG, frames=1))
    with pytest.raises(ValueError, match="counts: "):
        events_oracle.read(np.zeros((3, 4, 4, 3), np.uint8), np.zeros((3, 4, 4, 2), np.uint8), 0.2)


@pytest.mark.parametrize(("field", "value"), [("substeps", 0), ("threshold", 0.0), ("objects", 5), ("height", 8)])
def test_wrong_settings_are_named(field, value):
    with pytest.raises(ValueError, match=f"^{field}: "):
        dataclasses.replace(CONFIG, **{field: value})
