"""The world of bouncing balls: exact motion, laws that hold, violations that are told."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.worlds.bounce import balls
from data_pipelines.worlds.bounce import oracle as bounce_oracle
from data_pipelines.worlds.bounce import world as bounce
from data_pipelines.worlds.bounce.balls import Box
from data_pipelines.worlds.bounce.world import BounceConfig

CONFIG = BounceConfig()
SEEDS = range(6)


def thrown(seed, count=4, gravity=40.0, restitution=1.0):
    rng = np.random.default_rng(seed)
    box = Box((60.0, 50.0), rng.uniform(3, 5, count), gravity, restitution)
    places = np.array([(10, 12), (30, 14), (48, 30), (20, 36)], float)[:count] + rng.uniform(-3, 3, (count, 2))
    return box, places, rng.uniform(-40, 40, (count, 2))


@pytest.mark.parametrize("seed", SEEDS)
def test_elastic_balls_keep_their_energy_and_stay_apart_inside_the_box(seed):
    box, places, speeds = thrown(seed)
    x, v, meetings = balls.simulate(box, places, speeds, np.linspace(0, 4, 200))
    assert len(meetings) > 20
    np.testing.assert_allclose(balls.energy(box, x, v), balls.energy(box, places, speeds), rtol=1e-9)
    gaps = np.linalg.norm(x[:, :, None] - x[:, None], axis=-1) - box.radii[:, None] - box.radii
    assert gaps[:, ~np.eye(4, dtype=bool)].min() > -1e-6
    assert (x > box.radii[:, None] - 1e-6).all()
    assert (x < np.array(box.size) - box.radii[:, None] + 1e-6).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_meetings_conserve_momentum_and_walls_turn_one_component(seed):
    box, places, speeds = thrown(seed, gravity=0.0)
    meetings = balls.simulate(box, places, speeds, [3.0])[2]
    for meeting in meetings[:12]:
        _, v, _ = balls.simulate(box, places, speeds, [meeting.time - 1e-7, meeting.time + 1e-7])
        mass = box.radii[:, None] ** 2
        if isinstance(meeting.other, str):
            kept = 1 - balls.WALLS.index(meeting.other) // 2
            assert v[0, meeting.ball, kept] == pytest.approx(v[1, meeting.ball, kept])
            assert v[0, meeting.ball, 1 - kept] == pytest.approx(-v[1, meeting.ball, 1 - kept])
        else:
            np.testing.assert_allclose((mass * v[0]).sum(0), (mass * v[1]).sum(0), atol=1e-6)


def test_two_balls_head_on_exchange_their_speeds():
    box = Box((100.0, 20.0), np.array([2.0, 2.0]), 0.0, 1.0)
    x, v, meetings = balls.simulate(box, np.array([(10.0, 10), (30, 10)]), np.array([(8.0, 0), (-8.0, 0)]), [2.0])
    assert meetings[0].time == pytest.approx(1.0)
    np.testing.assert_allclose(v[0], [(-8, 0), (8, 0)], atol=1e-9)
    np.testing.assert_allclose(x[0], [(10, 10), (30, 10)], atol=1e-9)


def test_a_fall_takes_its_time_and_lossy_balls_come_to_rest():
    box = Box((20.0, 22.0), np.array([2.0]), 18.0, 0.5)
    x, v, meetings = balls.simulate(box, np.array([(10.0, 4.0)]), np.zeros((1, 2)), [4 / 3, 20.0])
    assert meetings[0].time == pytest.approx(4 / 3)  # 16 = 9 t^2
    assert meetings[0].speed == pytest.approx(24.0)
    assert x[0, 0, 1] == pytest.approx(20.0)
    assert x[1, 0, 1] > 20 - 0.1
    assert abs(v[1]).max() < 2  # of 24


def test_frames_do_not_change_the_motion():
    box, places, speeds = thrown(1, restitution=0.8)
    few = balls.simulate(box, places, speeds, [0.0, 1.0, 2.0])[0]
    many = balls.simulate(box, places, speeds, np.linspace(0, 2, 65))[0]
    np.testing.assert_allclose(few, many[::32], atol=1e-6)


def test_clip_depends_on_its_index_alone():
    config = dataclasses.replace(CONFIG, violations=0.5)
    first = [bounce.clip(config, i, seed=3) for i in range(6)]
    again = {i: bounce.clip(config, i, seed=3) for i in reversed(range(6))}
    for i, example in enumerate(first):
        np.testing.assert_array_equal(example.video, again[i].video)
        assert (example.caption, example.attributes) == (again[i].caption, again[i].attributes)
    kinds = [bounce.clip(config, i).attributes["violation"] for i in range(40)]
    assert 10 <= sum(kind is not None for kind in kinds) <= 30
    assert all(bounce.clip(CONFIG, i).attributes["violation"] is None for i in range(5))


@pytest.mark.parametrize("kind", bounce.VIOLATIONS)
def test_every_violation_is_in_the_pixels_and_in_the_labels(kind):
    for index in range(4):
        made = bounce.clip(CONFIG, index, 0, kind)
        told = made.attributes["violation"]
        masks, n, t = made.fields["masks"], told["object"], told["frame"]
        track = made.fields["tracks"][:, n - 1]
        fall = CONFIG.gravity * 32 / CONFIG.fps**2
        bend = np.linalg.norm(track[t + 1] - 2 * track[t] + track[t - 1] - (0, fall))
        assert told["kind"] == kind
        if kind == "vanish":
            assert not (masks[t] == n).any()
            assert (masks[t - 1] == n).any()
            assert not made.fields["flow_visible"][t - 1][masks[t - 1] == n].any()
        elif kind == "recolour":
            where = [made.video[k][masks[k] == n].astype(int).sum(0) > 1000 for k in (t - 1, t)]
            assert (where[0] != where[1]).any()
        elif kind == "teleport":
            assert np.linalg.norm(track[t] - track[t - 1]) > 2 * made.attributes["objects"][n - 1]["radius"]
        elif kind == "swerve":
            assert bend > 0.5
        elif kind == "stop":
            np.testing.assert_array_equal(track[t:], np.broadcast_to(track[t], track[t:].shape))
        else:
            gaps = np.linalg.norm(made.fields["tracks"][:, 0] - made.fields["tracks"][:, 1], axis=-1)
            assert gaps.min() < sum(ball["radius"] for ball in made.attributes["objects"]) - 2


def test_captions_tell_of_collisions():
    for index in range(20):
        made = bounce.clip(CONFIG, index)
        met = any(m["wall"] is None for m in made.attributes["meetings"])
        assert made.caption.endswith("collide" if met else "never touch")


def test_the_oracle_is_right_on_real_clips_and_sees_what_cannot_be():
    figures = {f.name: f for f in bounce_oracle.check(CONFIG, 128)}
    assert {name: f.value for name, f in figures.items() if not f.ok} == {}
    assert {f"corrupted/{kind}" for kind in bounce.VIOLATIONS} < set(figures)


def test_the_oracle_names_what_is_broken():
    made = bounce.clip(CONFIG, 1, 0, "vanish")
    reading = bounce_oracle.read(made.video[None], CONFIG)[0]
    told = made.attributes["violation"]
    colour = made.attributes["objects"][told["object"] - 1]["colour"]
    assert reading.broken[0] == (told["frame"], "presence", colour)
    assert bounce_oracle.read(np.zeros((1, 8, 32, 32, 3), np.uint8), CONFIG)[0].colours == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 8), ("balls", 5), ("balls", 0), ("colours", ("red",)), ("radius", (0.2, 0.1)), ("speed", (0.0, 1.0)),
     ("gravity", -1.0), ("restitution", 0.2), ("violations", 1.5)],
)  # fmt: skip
def test_wrong_settings_are_named(field, value):
    with pytest.raises(ValueError, match=f"^{field}: "):
        dataclasses.replace(CONFIG, **{field: value})


def test_violations_that_have_no_place_are_refused():
    with pytest.raises(ValueError, match="violations: 0.5 in clips of 4 frames"):
        dataclasses.replace(CONFIG, violations=0.5, frames=4)
    with pytest.raises(ValueError, match="violations: there is no place for 'ghost'"):
        bounce.clip(dataclasses.replace(CONFIG, balls=1), 0, 0, "ghost")
