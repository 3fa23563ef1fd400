"""The Fréchet distance of two sets of features, each taken for a Gaussian (FID, arXiv 1706.08500; FVD, 1812.01717).

    d^2 = |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2)

Which features is the caller's business: of a network, or, on a world with ground truth, tracks and attributes that its
oracle reads.  The estimate is biased upwards with few examples, so compare sets of one size only.
"""

import numpy as np


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """d^2 of features `[N, D]` and `[M, D]`.

    Raises:
      ValueError: other shapes, fewer than two examples, values that are not finite.
    """
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    for name, x in (("a", a), ("b", b)):
        if x.ndim != 2 or len(x) < 2 or x.shape[1] != a.shape[1]:
            raise ValueError(
                f"{name}: features {list(x.shape)} must be [N, D], N at least 2 and D as in a {list(a.shape)}"
            )
        if not np.isfinite(x).all():
            raise ValueError(f"{name}: features hold values that are not finite")
    gap = a.mean(0) - b.mean(0)
    s_a, s_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    root = _root(s_a)
    cross = np.linalg.eigvalsh(root @ s_b @ root).clip(0)
    return float(max(0.0, gap @ gap + np.trace(s_a) + np.trace(s_b) - 2 * np.sqrt(cross).sum()))


def _root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T
