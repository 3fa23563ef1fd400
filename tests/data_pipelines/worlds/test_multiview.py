"""The world of several views: one scene, exact poses, and an oracle that tells what does not belong together."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.worlds.drawing import pinhole
from data_pipelines.worlds.multiview import oracle as multiview_oracle
from data_pipelines.worlds.multiview import world as multiview
from data_pipelines.worlds.multiview.world import MultiviewConfig
from data_pipelines.worlds.planes.oracle import errors

CONFIG = MultiviewConfig()


@pytest.fixture(scope="module")
def made():
    return [multiview.clip(CONFIG, i, 3) for i in range(6)]


def carried(example, t, v):
    """Places [H, W, 2] in view v of the clip's pixels, from their depth and the stored cameras alone."""
    fields = example.fields
    height, width = fields["depth"].shape[1:]
    matrix, camera = fields["intrinsics"][t].astype(float), fields["camera"][t].astype(float)
    _, directions = pinhole.rays(pinhole.grid(height, width), camera[None], matrix)
    points = -camera[:, 3] @ camera[:, :3] + fields["depth"][t].reshape(-1, 1) * directions[0]
    places, _ = pinhole.project(points, fields["views_camera"][v, t].astype(float), matrix)
    return places.reshape(height, width, 2)


def test_clip_depends_on_its_index_alone(made):
    again = multiview.clip(CONFIG, 2, 3)
    for name, value in made[2].fields.items():
        np.testing.assert_array_equal(value, again.fields[name])
    np.testing.assert_array_equal(made[2].video, again.video)
    assert made[2].caption == again.caption


@pytest.mark.parametrize(("size", "cameras"), [((16, 16, 1), 2), ((31, 17, 2), 4), ((128, 128, 1), 3)])
def test_every_size(size, cameras):
    config = MultiviewConfig(height=size[0], width=size[1], frames=size[2], cameras=cameras, boxes=2, boards=2)
    example = multiview.clip(config, 0)
    assert example.video.shape == (size[2], *size[:2], 3)
    assert example.fields["views"].shape == (cameras - 1, size[2], *size[:2], 3)
    assert example.caption.endswith({2: "two", 3: "three", 4: "four"}[cameras] + " cameras")


def test_matches_are_what_depth_and_cameras_say(made):
    """Two ways to the same places: on the faces, and through depth and the stored poses."""
    for example in made[:2]:
        grid = pinhole.grid(32, 32).reshape(32, 32, 2)
        for v in range(2):
            told = grid + example.fields["matches"][v, 3]
            np.testing.assert_allclose(told, carried(example, 3, v), atol=2e-3)


def test_colours_are_found_where_matches_and_flow_lead(made):
    """The same picture is there, unlike beside it."""
    for example in made:
        grid = pinhole.grid(32, 32).reshape(32, 32, 2)
        for way, visible, first, second in (
            (example.fields["matches"][0, 2], example.fields["matches_visible"][0, 2], example.video[2],
             example.fields["views"][0, 2]),
            (example.fields["flow"][4], example.fields["flow_visible"][4], example.video[4], example.video[5]),
        ):  # fmt: skip
            here, there = (frame.astype(np.float32).mean(-1) / 255 for frame in (first, second))
            there_at = (grid + way)[visible]
            found = errors(there, there_at, here[visible])
            beside = errors(there, there_at + (3.0, 2.0), here[visible])
            assert found < 0.6 * beside


def test_objects_go_where_the_caption_says(made):
    for example in made:
        for number, thing in enumerate(example.attributes["objects"], 1):
            assert f"a {thing['colour']} {thing['kind']} {multiview.MOVES[thing['move']][0]}" in example.caption
            here = example.fields["masks"][:-1] == number
            if here[2].sum() < 20:
                continue
            dim, sign = (0, 1) if thing["move"] in ("left", "right") else (1, 1)
            sign = sign if thing["move"] in ("right", "down") else -1
            assert sign * example.fields["flow"][2][here[2]][:, dim].mean() > 0.2


def test_tracks_are_on_epipolar_lines_and_seen_in_the_clip(made):
    for example in made:
        fields = example.fields
        assert fields["tracks_visible"].any(0).all()
        for v in range(2):
            poses = fields["camera"], fields["views_camera"][v]
            off = multiview_oracle.epipolar(
                fields["tracks"].astype(float), fields["views_tracks"][v].astype(float), poses, fields["intrinsics"][0]
            )
            assert off[fields["tracks_visible"]].max() < 1e-2


def test_epipolar_distance_is_in_pixels():
    """Two cameras side by side: lines are rows, and the distance is how many rows a point is off."""
    matrix = pinhole.intrinsics(20, 30, 25.0)
    left, right = np.eye(3, 4), np.eye(3, 4) - [[0, 0, 0, 1.0], [0] * 4, [0] * 4]
    points = np.random.default_rng(0).uniform((-1, -1, 3), (1, 1, 6), (9, 3))
    first, second = (pinhole.project(points, camera, matrix)[0] for camera in (left, right))
    off = multiview_oracle.epipolar(first, second + (5.0, 1.5), (left, right), matrix)
    np.testing.assert_allclose(off, 1.5, atol=1e-9)


def test_views_stand_from_left_to_right(made):
    for example in made:
        cameras = np.concatenate([example.fields["camera"][None], example.fields["views_camera"]])
        centres = -np.einsum("vtij,vti->vtj", cameras[..., :3], cameras[..., 3])
        assert (np.diff(centres[:, :, 0], axis=0) > 0.3).all()
        np.testing.assert_allclose(np.linalg.det(cameras[..., :3]), 1, rtol=1e-5)


def test_the_oracle_is_right_and_says_no_to_other_views():
    figures = {f.name: f for f in multiview_oracle.check(CONFIG, 8, 1)}
    assert {name: f.value for name, f in figures.items() if not f.ok} == {}


def test_the_oracle_tells_the_object_of_another_time_from_the_room(made):
    example, late = made[0], made[0].fields["views"][:, ::-1]
    cameras = np.concatenate([example.fields["camera"][None], example.fields["views_camera"]])
    fields = example.fields
    known = cameras, fields["depth"], fields["masks"], fields["matches_visible"], fields["intrinsics"][0]
    left = multiview_oracle.fits(example.video, example.fields["views"], *known)
    assert multiview_oracle.agrees(left)
    assert np.nanmax(multiview_oracle.fits(example.video, late, *known)[:, 1:]) > 1.5 * np.nanmax(left[:, 1:])


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 8), ("cameras", 1), ("cameras", 5), ("boxes", 3), ("boards", -1), ("baseline", 90.0), ("swing", -1.0),
     ("field_of_view", 10.0), ("samples", 0)],
)  # fmt: skip
def test_wrong_settings_are_named(field, value):
    with pytest.raises(ValueError, match=f"^{field}: "):
        dataclasses.replace(CONFIG, **{field: value})


def test_what_cannot_be_compared_is_refused(made):
    with pytest.raises(ValueError, match="something must move"):
        MultiviewConfig(boxes=0, boards=0)
    with pytest.raises(ValueError, match="frames: 2 of 32x32"):
        multiview_oracle.check(dataclasses.replace(CONFIG, frames=2))
    fields = made[0].fields
    with pytest.raises(ValueError, match="baseline: 5.0"):
        multiview_oracle.check(dataclasses.replace(CONFIG, baseline=5.0))
    known = fields["views_camera"], fields["depth"], fields["masks"], fields["matches_visible"], fields["intrinsics"][0]
    with pytest.raises(ValueError, match="views: "):
        multiview_oracle.fits(made[0].video, fields["views"][:, 1:], *known)
