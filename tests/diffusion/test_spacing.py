import numpy as np
import pytest

from vdm_jax.diffusion.spacing import beta, exponential, karras, leading, linspace, stretch_to, subset, trailing


def test_entries_of_the_table_that_defines_them():
    """Table 2 of arXiv 2305.08891, with 0-based entries of 10 out of 1000."""
    assert leading(1000, 10).tolist() == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    assert leading(1000, 10, offset=1)[-1] == 1
    assert trailing(1000, 10).tolist() == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert linspace(1000, 10).tolist() == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]


def test_a_spare_point_leaves_the_last_one_out():
    assert leading(1000, 4, spare=1).tolist() == [800, 600, 400, 200]
    assert linspace(1001, 4, spare=1).tolist() == [1000, 750, 500, 250]


def test_every_number_of_steps_gives_as_many_entries():
    for steps in range(1, 1001):
        for entries in (leading(1000, steps), trailing(1000, steps), linspace(1000, steps)):
            assert len(entries) == steps
            assert (np.diff(entries) < 0).all()
            assert entries[-1] >= 0
            assert entries[0] <= 999


def test_subsets_of_distilled_entries():
    assert subset(1000, 4, 50).tolist() == [999, 759, 499, 259]
    assert subset(1000, 50, 50).tolist() == list(range(999, 0, -20))
    with pytest.raises(ValueError, match="steps: 51 is more than the 50"):
        subset(1000, 51, 50)


@pytest.mark.parametrize("ladder", [karras, exponential, beta])
def test_ladders_go_from_the_largest_to_the_smallest(ladder):
    sigmas = ladder(0.03, 14.6, 9)
    np.testing.assert_allclose(sigmas[[0, -1]], [14.6, 0.03], rtol=1e-9)
    assert (np.diff(sigmas) < 0).all()
    np.testing.assert_allclose(ladder(0.03, 14.6, 1), [14.6], rtol=1e-9)


def test_what_each_ladder_is_even_in():
    roots, logs = karras(0.03, 14.6, 9) ** (1 / 7), np.log(exponential(0.03, 14.6, 9))
    np.testing.assert_allclose(np.diff(roots), np.diff(roots)[0])
    np.testing.assert_allclose(np.diff(logs), np.diff(logs)[0])
    np.testing.assert_allclose(beta(0.0, 1.0, 3)[1], 0.5)  # symmetric: the median is the middle


def test_a_flow_is_stretched_to_its_terminal():
    levels = stretch_to(np.array([1.0, 0.6, 0.3]), 0.1)
    np.testing.assert_allclose(levels[[0, -1]], [1.0, 0.1])
    np.testing.assert_allclose((1 - levels[1]) / (1 - levels[2]), 0.4 / 0.7)
