"""Flow and cameras against the world of planes, where both are exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.worlds.planes.world import PlanesConfig, clip
from vdm_jax.geometry import (
    check_flow,
    compose,
    consistent,
    direction_errors,
    flow_from_depth,
    fundamental,
    grid,
    inverse,
    plucker,
    project,
    relative,
    resize_flow,
    to_camera,
    unproject,
    warp,
)
from vdm_jax.geometry.flow import warn_if_still

MOVES = ("orbit left", "dolly forward", "roll right")
CONFIG = PlanesConfig(height=32, width=32, frames=5, moves=MOVES)
FLOW_OF = jax.jit(flow_from_depth)  # one program rather than one for each operation
FLOW = np.zeros((4, 8, 8, 2), np.float32)


@functools.cache
def planes(index):
    return clip(CONFIG, index)


def of(index, *names):
    return [jnp.asarray(planes(index).fields[name]) for name in names]


@pytest.mark.parametrize("index", range(len(MOVES)))
def test_depth_and_pose_give_the_flow_of_a_still_world(index):
    depth, camera, lens, flow = of(index, "depth", "camera", "intrinsics", "flow")
    ours = FLOW_OF(depth, camera, lens)
    np.testing.assert_allclose(ours, flow, atol=2e-3)
    whole = FLOW_OF(depth[:1], camera, lens)
    np.testing.assert_allclose(whole[0], flow[0], atol=2e-3)


@pytest.mark.parametrize("index", range(len(MOVES)))
def test_what_is_hidden_is_found_by_going_there_and_back(index):
    depth, camera, lens, flow, visible = of(index, "depth", "camera", "intrinsics", "flow", "flow_visible")
    back = FLOW_OF(depth[::-1], camera[::-1], lens[::-1])[::-1]
    found = jax.jit(consistent)(flow, back)
    assert (found == visible).mean() > 0.95
    assert found[visible].mean() > 0.97


def test_a_later_frame_looked_up_is_the_earlier_one_where_it_is_seen():
    flow, visible = of(0, "flow", "flow_visible")
    video = jnp.asarray(planes(0).video, jnp.float32) / 127.5 - 1
    error = np.abs(jax.jit(warp)(video[1:], flow) - video[:-1]).mean(-1)
    still = np.abs(video[1:] - video[:-1]).mean(-1)
    assert error[visible].mean() < 0.5 * still[visible].mean()
    check = jax.jit(direction_errors)
    forward, backward = check(video, flow)
    assert forward < 0.7 * backward
    forward, backward = check(video, -flow)
    assert backward < forward


def test_flow_keeps_its_meaning_on_another_grid():
    constant = jnp.broadcast_to(jnp.asarray([4.0, -2.0]), (3, 8, 16, 2))
    resized = resize_flow(constant, 4, 4)
    np.testing.assert_allclose(resized, jnp.broadcast_to(jnp.asarray([1.0, -1.0]), (3, 4, 4, 2)), rtol=1e-6)
    np.testing.assert_allclose(resize_flow(resized, 8, 16), constant, rtol=1e-6)
    with pytest.raises(ValueError, match="size: 0x4"):
        resize_flow(constant, 0, 4)


def test_flows_chain():
    a, b = jnp.full((8, 8, 2), 2.0), jnp.full((8, 8, 2), -0.5)
    np.testing.assert_allclose(compose(a, b), 1.5, rtol=1e-6)
    depth, camera, lens, flow = of(0, "depth", "camera", "intrinsics", "flow")
    direct = FLOW_OF(depth[:1], camera, lens)[1]
    smooth = np.abs(np.diff(np.asarray(depth[1]), axis=1, prepend=depth[1, :, :1])) < 0.05  # away from edges
    error = np.abs(jax.jit(compose)(flow[0], flow[1]) - direct).max(-1)
    assert np.median(np.asarray(error)[smooth]) < 0.05


def test_poses_go_there_and_back():
    (camera,) = of(1, "camera")
    points = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4, 4, 3)), jnp.float32)
    np.testing.assert_allclose(to_camera(to_camera(points, camera), inverse(camera)), points, atol=1e-5)
    turned = to_camera(to_camera(points, inverse(camera)), camera[::-1])
    np.testing.assert_allclose(to_camera(points, relative(camera, camera[::-1])), turned, atol=1e-5)


def test_what_a_pixel_shows_is_seen_there():
    depth, lens = of(2, "depth", "intrinsics")
    places, far = project(unproject(depth, lens), lens)
    np.testing.assert_allclose(places, jnp.broadcast_to(grid(32, 32), places.shape), atol=1e-4)
    np.testing.assert_allclose(far, depth, rtol=1e-6)


def test_matches_lie_on_epipolar_lines():
    camera, lens, flow = of(0, "camera", "intrinsics", "flow")
    matrix = fundamental(camera[0], camera[1], lens[0], lens[1])
    one = jnp.ones((32, 32, 1))
    here = jnp.concatenate([grid(32, 32), one], -1)
    there = jnp.concatenate([grid(32, 32) + flow[0], one], -1)
    line = jnp.einsum("ij,hwj->hwi", matrix, here)
    distance = (line * there).sum(-1) / jnp.linalg.norm(line[..., :2], axis=-1)
    assert float(jnp.abs(distance).max()) < 0.02  # pixels


def test_a_ray_is_met_by_what_its_pixel_shows():
    depth, camera, lens = of(0, "depth", "camera", "intrinsics")
    rays = plucker(camera, lens, 32, 32)
    assert rays.shape == (5, 32, 32, 6)
    np.testing.assert_allclose(jnp.linalg.norm(rays[..., 3:], axis=-1), 1, rtol=1e-5)
    points = to_camera(unproject(depth, lens), inverse(camera))
    np.testing.assert_allclose(jnp.cross(points, rays[..., 3:]), rays[..., :3], atol=1e-4)


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        (np.zeros((5, 8, 8, 2), np.float32), r"5 fields for 5 frames; expected \[T - 1, H, W, 2\]"),
        (np.zeros((4, 8, 8, 3), np.float32), r"is not float \[T - 1, H, W, 2\] with T=5.*\(dx, dy\)"),
        (np.zeros((4, 8, 8, 2), np.int32), "flow: int32"),
        (np.zeros((4, 6, 8, 2), np.float32), r"\[4, 6, 8, 2\] is not .*H=8, W=8"),
        (np.zeros((2, 8, 8, 2), np.float32), "T=5"),
        (FLOW + np.float32(np.inf), r"flow\[0, 0, 0\]: .* is not finite"),
        (FLOW + np.float32(9), "moves 9 pixels on a grid of 8x8; expected pixels of that grid"),
    ],
)
def test_flow_that_cannot_be_is_refused(flow, message):
    with pytest.raises(ValueError, match=message):
        check_flow(flow, 5, (8, 8))


def test_flow_that_rounds_to_nothing_is_warned_of(recwarn):
    warn_if_still(FLOW, (8, 8))
    warn_if_still(FLOW + np.float32(0.3), (32, 32))
    assert not recwarn.list
    with pytest.warns(UserWarning, match="moves at most 0.3 pixels on a grid of 8x8, which rounds to none"):
        warn_if_still(check_flow(FLOW + np.float32(0.3), 5), (8, 8))
