"""The world of the figure: reproducible, its body rigid limb by limb, its fields exact, and its oracle right."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.worlds.figure import body
from data_pipelines.worlds.figure import oracle as figure_oracle
from data_pipelines.worlds.figure import world as figure
from data_pipelines.worlds.figure.body import ACTIONS, GARMENTS, KEYPOINTS, PARTS
from data_pipelines.worlds.figure.world import FigureConfig, Person

CONFIG = FigureConfig(height=32, width=40, frames=8)


def of_action(action, config=CONFIG, seed=0):
    return figure.render(config, Person("red", "blue", action), np.random.default_rng(seed))


def test_clip_depends_on_its_index_alone():
    again = {i: figure.clip(CONFIG, i, 3) for i in reversed(range(4))}
    for i in range(4):
        one = figure.clip(CONFIG, i, 3)
        np.testing.assert_array_equal(one.video, again[i].video)
        assert one.caption == again[i].caption
    assert not np.array_equal(figure.clip(CONFIG, 0, 4).video, again[0].video)


@pytest.mark.parametrize("size", [(16, 16, 1), (128, 128, 2), (31, 17, 5), (16, 128, 3), (20, 20, 128)])
def test_every_size(size):
    config = FigureConfig(height=size[0], width=size[1], frames=size[2])
    for action in ACTIONS:
        example = of_action(action, config)
        assert example.video.shape == (size[2], *size[:2], 3)
        assert set(np.unique(example.fields["masks"])) >= {0, 1, 2, 3}


@pytest.mark.parametrize("action", ACTIONS)
def test_limbs_keep_their_length_and_stay_inside(action):
    points = of_action(action).fields["tracks"].astype(np.float64)
    for part in PARTS:
        a, b = (points[:, KEYPOINTS.index(name)] for name in (part.start, part.end))
        np.testing.assert_allclose(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a - b, axis=-1)[0], atol=1e-4)
    assert (points > 0).all()
    assert (points < (40, 32)).all()


@pytest.mark.parametrize("action", ACTIONS)
def test_flow_leads_to_the_same_garment(action):
    config = FigureConfig(frames=8)
    fields = of_action(action, config, 1).fields
    flow, seen, masks = fields["flow"], fields["flow_visible"], fields["masks"]
    x, y = np.arange(64) + 0.5, np.arange(64)[:, None] + 0.5
    j, i = (np.floor(np.clip(v, 0, 63.9)).astype(int) for v in (x + flow[..., 0], y + flow[..., 1]))
    same = masks[1:][np.arange(7)[:, None, None], i, j] == masks[:-1]
    assert same[seen].mean() > 0.98  # but where the nearest pixel's centre lies across an edge
    assert (seen & (masks[:-1] > 0)).any()
    assert not flow[masks[:-1] == 0].any()


def test_flow_of_a_limb_is_rigid():
    """Distances between the points of one limb do not change, and its ends are led to its ends."""
    points = of_action("cheers", seed=2).fields["tracks"].astype(np.float64)
    part = next(p for p in PARTS if p.end == "right hand")
    for name in (part.start, part.end):
        place = points[:-1, KEYPOINTS.index(name)]
        moved = body._carried(part, points, *(place[:, axis, None, None] for axis in (0, 1)))
        np.testing.assert_allclose(place + moved[:, 0, 0], points[1:, KEYPOINTS.index(name)], atol=1e-4)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 30, (2, 7, 1, 9))
    moved = body._carried(part, points, x, y)
    after = np.stack([x, y], -1) + moved
    before = np.stack([x, y], -1)
    np.testing.assert_allclose(
        np.linalg.norm(after[:, 0, 1:] - after[:, 0, :1], axis=-1),
        np.linalg.norm(before[:, 0, 1:] - before[:, 0, :1], axis=-1),
        rtol=1e-4,
    )


def test_masks_show_the_garments_colours():
    example = of_action("waves", FigureConfig(frames=2))
    colours = {"trousers": figure.COLOURS["blue"], "shirt": figure.COLOURS["red"], "skin": figure.SKIN}
    for number, garment in enumerate(GARMENTS[:3], 1):
        inside = example.video[example.fields["masks"] == number]
        assert np.median(inside, 0) == pytest.approx(colours[garment], abs=1)


def test_hidden_key_points_are_said_to_be_hidden():
    fields = of_action("squats", FigureConfig(frames=8)).fields
    shown = dict(zip(KEYPOINTS, fields["tracks_visible"].T))
    assert shown["head"].all()
    assert not shown["left knee"].all()


def test_captions_are_read_back_and_held_out():
    people = figure.combinations(CONFIG)
    assert len(set(people)) == 6 * 5 * 6
    assert all(figure.parse_caption(figure.caption(p)) == p for p in people)
    train, held_out = figure.hold_out(CONFIG, 0.25, 0)
    said = [{clip(i, 0).caption for i in range(140)} for clip in (train, held_out)]
    assert said[0]
    assert said[1]
    assert not said[0] & said[1]


@pytest.fixture(scope="module")
def read():
    config = FigureConfig(height=48, width=48, frames=12)
    examples = [figure.clip(config, 5 * i, 1) for i in range(36)]
    return config, examples


def test_the_oracle_reads_what_is_drawn(read):
    config, examples = read
    videos, captions = np.stack([e.video for e in examples]), [e.caption for e in examples]
    assert set(figure_oracle.agreement(videos, captions, config).values()) == {1.0}


def test_the_oracle_tells_corrupted_clips(read):
    figures = {f.name: f for f in figure_oracle.check(read[0], 36, 1)}
    assert all(f.ok for f in figures.values()), {n: f.value for n, f in figures.items()}
    assert figures["corrupted/reversed_walks"].value == 0


def test_the_oracle_needs_enough_to_see():
    with pytest.raises(ValueError, match="frames: 4; the oracle of figure needs at least 8"):
        figure_oracle.check(FigureConfig(frames=4))


@pytest.mark.parametrize(
    ("field", "value"),
    [("actions", ("walk",)), ("colours", ("red",)), ("size", (0.7, 0.5)), ("height", 8), ("fps", 0.0)],
)
def test_wrong_settings_are_named(field, value):
    with pytest.raises(ValueError, match=f"^{field}: "):
        dataclasses.replace(CONFIG, **{field: value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a person in a rde shirt and blue trousers waves", "shirt: unknown 'rde'; did you mean 'red'"),
        ("a red square", "not of the form"),
        ("a person in a red shirt and blue trousers walk left", "did you mean 'walks left'"),
    ],
)
def test_wrong_captions_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        figure.parse_caption(text)
