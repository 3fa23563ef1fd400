import numpy as np
import pytest

from vdm_jax.sampling.tau import (
    check_tau,
    from_level,
    image_to_video,
    interpolation,
    prediction,
    staircase,
    uniform,
    with_given,
)

LEVELS = np.linspace(1.0, 0.0, 5, dtype=np.float32)


def test_uniform_columns_are_the_levels():
    tau = uniform(LEVELS, 3)
    assert tau.shape == (5, 3)
    assert (tau == LEVELS[:, None]).all()


@pytest.mark.parametrize(
    ("tau", "given"),
    [
        (image_to_video(LEVELS, 4), [0]),
        (image_to_video(LEVELS, 4, frame=2), [2]),
        (interpolation(LEVELS, 4), [0, 3]),
        (prediction(LEVELS, 4, given=2), [0, 1]),
        (with_given(LEVELS, 4, [1, 3]), [1, 3]),
    ],
)
def test_given_columns_are_clean_and_the_rest_is_uniform(tau, given):
    rest = [i for i in range(4) if i not in given]
    assert (tau[:, given] == 0).all()
    assert (tau[:, rest] == LEVELS[:, None]).all()


@pytest.mark.parametrize("lag", [0, 1, 2, 4])
def test_staircase_delays_each_frame_by_its_lag(lag):
    tau = staircase(LEVELS, 3, lag)
    assert tau.shape == (5 + 2 * lag, 3)
    for frame in range(3):
        start = lag * frame
        assert (tau[: start + 1, frame] == 1.0).all()
        assert (tau[start : start + 5, frame] == LEVELS).all()
        assert (tau[start + 4 :, frame] == 0.0).all()
    check_tau(tau, 3, 1.0)


def test_lag_of_all_steps_is_one_frame_after_the_other():
    tau = staircase(LEVELS, 3, 4)
    moving = np.diff(tau, axis=0) != 0
    assert (moving.sum(axis=1) == 1).all()


def test_one_column_of_levels_stands_for_all_frames():
    np.testing.assert_array_equal(check_tau(LEVELS, 3, 1.0), uniform(LEVELS, 3))


@pytest.mark.parametrize(
    ("tau", "message"),
    [
        (np.zeros((5, 2)), r"shape \(5, 2\)"),
        (np.zeros((2, 3, 1)), "shape"),
        (np.zeros((1, 3)), "needs two"),
        (uniform(LEVELS, 3) + 0.5, r"tau\[0, 0\]: 1.5 lies outside 0 to t_max=1.0"),
        (np.full((3, 3), np.nan), "outside"),
        (-uniform(LEVELS, 3), "outside"),
        (np.float32([[1, 1, 1], [0.5, 0.5, 0.5], [0.2, 0.7, 0.2]]), r"tau\[2, 1\]: .*is above tau\[1, 1\]"),
    ],
)
def test_wrong_matrices_are_refused(tau, message):
    with pytest.raises(ValueError, match=message):
        check_tau(tau, 3, 1.0)


def test_rising_levels_need_to_be_asked_for():
    rising = np.float32([[0.2], [0.7], [0.0]])
    for how in ("renoise", "invert"):
        np.testing.assert_array_equal(check_tau(rising, 1, 1.0, rising=how), rising)
    with pytest.raises(ValueError, match="start at a small level"):
        check_tau(np.float32([[0.0], [0.5]]), 1, 1.0, rising="invert")
    with pytest.raises(ValueError, match="did you mean 'renoise'"):
        check_tau(rising, 1, 1.0, rising="renoised")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: image_to_video(LEVELS, 4, frame=4), "given: frame 4"),
        (lambda: image_to_video(LEVELS, 4, frame=-1), "given: frame -1"),
        (lambda: prediction(LEVELS, 4, given=4), "given: 4"),
        (lambda: prediction(LEVELS, 4, given=0), "given: 0"),
        (lambda: interpolation(LEVELS, 2), "frames: 2"),
        (lambda: with_given(LEVELS, 2, [0, 1]), "nothing is left"),
        (lambda: staircase(LEVELS, 2, -1), "lag: -1"),
        (lambda: uniform(LEVELS, 0), "frames: 0"),
        (lambda: uniform(np.zeros((2, 2)), 3), "levels: shape"),
    ],
)
def test_bad_requests_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_levels_begin_at_the_start():
    np.testing.assert_array_equal(from_level(LEVELS, 0.6), np.float32([0.6, *[v for v in LEVELS if v < 0.6]]))
    np.testing.assert_array_equal(from_level(LEVELS, LEVELS[0]), LEVELS)
    for start in (0.0, 2.0 * LEVELS[0], float("nan")):
        with pytest.raises(ValueError, match="start: .* must be above 0 and at most"):
            from_level(LEVELS, start)
