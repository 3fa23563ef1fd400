import numpy as np
import pytest

from vdm_jax.evaluation.frechet import frechet_distance


def test_it_is_that_of_the_two_gaussians():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(50_000, 3)) * [1, 2, 3]
    b = rng.normal(size=(50_000, 3)) * [2, 2, 1] + [1, 0, 0]
    assert frechet_distance(a, b) == pytest.approx(1 + 1 + 0 + 4, rel=0.03)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_covariances_that_do_not_commute():
    """A closed form in two dims: tr sqrt(M) = sqrt(tr M + 2 sqrt(det M))."""
    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=(500, 2)) @ rng.normal(size=(2, 2)) for _ in range(2))
    s_a, s_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    product = s_a @ s_b
    cross = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    gap = a.mean(0) - b.mean(0)
    assert frechet_distance(a, b) == pytest.approx(gap @ gap + np.trace(s_a + s_b) - 2 * cross, rel=1e-9)


@pytest.mark.parametrize(("a", "b"), [
    (np.zeros((1, 2)), np.zeros((4, 2))),
    (np.zeros((4, 2)), np.zeros((4, 3))),
    (np.zeros((4, 2)), np.full((4, 2), np.nan)),
])  # fmt: skip
def test_features_that_are_none(a, b):
    with pytest.raises(ValueError, match=r"a:|b:"):
        frechet_distance(a, b)
