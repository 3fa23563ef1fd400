import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion.windows import Windows

SMALL = Windows(size=4, stride=2)
CASES = [
    (SMALL, 8), (Windows(5, 3, "uniform"), 11), (Windows(4, 4), 12), (Windows(16, 4), 64), (Windows(7, 7), 7),
    (Windows(4, 3, cover="shift_last"), 9),
]  # fmt: skip


def test_published_windows_and_weights():
    np.testing.assert_array_equal(SMALL.places(8), [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]])
    np.testing.assert_array_equal(Windows(6, 2).profile, [1, 2, 3, 3, 2, 1])
    np.testing.assert_array_equal(Windows(5, 2).profile, [1, 2, 3, 2, 1])
    assert len(Windows().starts(64)) == 13
    np.testing.assert_array_equal(Windows(4, 3, cover="shift_last").starts(9), [0, 3, 5])


@pytest.mark.parametrize(("windows", "frames"), CASES)
def test_every_frame_is_covered_and_its_shares_add_up_to_one(windows, frames):
    places, shares = windows.places(frames), windows.shares(frames)
    total = np.bincount(places.ravel(), shares.ravel(), frames)
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    counts = np.bincount(places.ravel(), minlength=frames)
    expected = [sum(start <= f < start + windows.size for start in windows.starts(frames)) for f in range(frames)]
    np.testing.assert_array_equal(counts, expected)
    assert counts.min() >= 1


@pytest.mark.parametrize(("windows", "frames"), CASES)
def test_what_all_windows_agree_on_is_the_result(windows, frames):
    x = jax.random.normal(jax.random.key(0), (2, frames, 3))
    parts = windows.cut(x, axis=1)
    assert parts.shape == (2, len(windows.starts(frames)), windows.size, 3)
    np.testing.assert_allclose(windows.fuse(parts, frames, axis=1), x, rtol=1e-6, atol=1e-6)


def test_fusion_is_the_weighted_mean():
    parts = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    fused = np.asarray(SMALL.fuse(jnp.asarray(parts), 8, axis=0))
    weights = [1, 2, 2, 1]
    for f in range(8):
        held = [(weights[f - 2 * i], parts[i, f - 2 * i]) for i in range(3) if 0 <= f - 2 * i < 4]
        np.testing.assert_allclose(fused[f], sum(w * v for w, v in held) / sum(w for w, _ in held), rtol=1e-5)


@pytest.mark.parametrize(("windows", "frames"), [(Windows(8, 4), 8), (Windows(4, 4), 8)])
def test_one_window_a_frame_changes_no_bit(windows, frames):
    x = jax.random.normal(jax.random.key(0), (2, frames, 3))
    np.testing.assert_array_equal(windows.fuse(windows.cut(x, axis=1), frames, axis=1), x)


def test_windows_of_tokens_that_hold_several_frames():
    assert Windows(16, 4).scaled(2) == Windows(8, 2)
    assert Windows(16, 4).scaled(1) == Windows(16, 4)
    with pytest.raises(ValueError, match="stride: 3 is not divisible by the 2 frames of a token"):
        Windows(16, 3).scaled(2)
    with pytest.raises(ValueError, match="weights: .* are of frames"):
        Windows(2, 2, (1.0, 1.0)).scaled(2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, "size: 0 must be 1 or more"),
        ({"stride": 17}, "stride: 17 must be 1 to size=16, or frames would be in no window"),
        ({"stride": 0}, "stride: 0 must be"),
        ({"weights": "triangle"}, "weights: unknown 'triangle'; did you mean 'triangular'"),
        ({"weights": (1.0, 2.0)}, "weights: .* must be 16 numbers"),
        ({"size": 2, "stride": 1, "weights": (1.0, -1.0)}, "weights: .* must be 2 numbers of at least 0"),
        ({"cover": "shift"}, "cover: unknown 'shift'; did you mean 'shift_last'"),
    ],
)
def test_wrong_windows_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Windows(**fields)


@pytest.mark.parametrize(
    ("windows", "frames", "message"),
    [
        (Windows(), 12, "frames: 12 is less than a window of 16"),
        (Windows(), 66, "frames: 66 leaves the last 2 in no window of 16 at stride 4; the nearest that fit: 64 and 68"),
        (Windows(2, 2, (1.0, 0.0)), 4, "weights: .* give frame 1 of 4 no weight at all"),
    ],
)
def test_clips_that_windows_do_not_cover_are_refused(windows, frames, message):
    for call in (windows.starts, windows.shares, lambda n: windows.cut(jnp.zeros((n, 1)), axis=0)):
        with pytest.raises(ValueError, match=message):
            call(frames)
    assert dataclasses.replace(Windows(), cover="shift_last").starts(66)[-1] == 50
