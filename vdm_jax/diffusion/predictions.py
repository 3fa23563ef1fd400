"""What a network may predict, and the exact conversions between all of it.

Every Gaussian process here writes `x_t = alpha x0 + sigma eps`, and every prediction in use is a fixed mixture

    y = n eps + c x0           x0: (0, 1)   eps: (1, 0)   v: (alpha, -sigma)   velocity: (1, -1)

(v: arXiv 2202.00512; velocity of the rectified flow: arXiv 2209.03003).  Two such lines in the same two unknowns
are all there is, so one formula converts any prediction `y` into any other `y' = n' eps + c' x0`:

    y' = (det' y + (c' n - n' c) x_t) / det          with  det = n alpha - c sigma

It divides once, by the determinant of what was predicted, and so is as well conditioned as the conversion can be:
`det` is sigma for x0, alpha for eps, alpha^2 + sigma^2 for v and alpha + sigma for velocity.  An error `e` in y is
an error `det' / det * e` in y'; with x0 as the source these are the known factors alpha/sigma (eps),
alpha^2/sigma + sigma (v) and alpha/sigma + 1 (velocity).

eps says nothing about x0 where alpha = 0, and x0 nothing about eps where sigma = 0: there the determinant is kept
at 1e-8, which gives a finite (and meaningless) number instead of a NaN that a later `where` could not undo.
"""

from typing import NamedTuple

import jax.numpy as jnp

from vdm_jax.errors import did_you_mean
from vdm_jax.types import Array

PREDICTIONS = ("x0", "eps", "v", "velocity")
_SMALLEST = 1e-8


class Line(NamedTuple):
    """A prediction space: the quantity `noise * eps + clean * x0`."""

    noise: Array | float
    clean: Array | float


def line(prediction: str, alpha: Array, sigma: Array) -> Line:
    """Returns the mixture that a named prediction stands for at a level.

    Raises:
      ValueError: `prediction` is none of `PREDICTIONS`.
    """
    if prediction == "x0":
        return Line(0.0, 1.0)
    if prediction == "eps":
        return Line(1.0, 0.0)
    if prediction == "v":
        return Line(alpha, -sigma)
    if prediction == "velocity":
        return Line(1.0, -1.0)
    raise ValueError(f"prediction: {did_you_mean(prediction, PREDICTIONS)}")


def determinant(space: Line, alpha: Array, sigma: Array) -> Array:
    """`noise * alpha - clean * sigma`: how strongly x_t and a prediction together determine (x0, eps)."""
    return space.noise * alpha - space.clean * sigma


def convert_line(value: Array, x_t: Array, source: Line, target: Line, alpha: Array, sigma: Array) -> Array:
    """Converts a prediction from one line to another; `alpha` and `sigma` broadcast against `value`."""
    if _same(source, target):
        return value
    mixed = target.clean * source.noise - target.noise * source.clean
    raw = determinant(target, alpha, sigma) * value + mixed * x_t
    return raw / _away_from_zero(determinant(source, alpha, sigma))


def convert(value: Array, x_t: Array, source: str, target: str, alpha: Array, sigma: Array) -> Array:
    """Converts between named predictions.

    Args:
      value: the prediction, any shape.
      x_t: the noisy array it was made for, same shape.
      source, target: names in `PREDICTIONS`.
      alpha, sigma: the level, broadcastable to `value`.

    Returns:
      The same belief, written in the target space.
    """
    return convert_line(value, x_t, line(source, alpha, sigma), line(target, alpha, sigma), alpha, sigma)


def error_ratio(source: Line, target: Line, alpha: Array, sigma: Array) -> Array:
    """The factor (never negative) from an error in `source` space to the same mistake seen in `target` space."""
    return jnp.abs(determinant(target, alpha, sigma) / _away_from_zero(jnp.asarray(determinant(source, alpha, sigma))))


def error_factor(source: str, target: str, alpha: Array, sigma: Array) -> Array:
    """`error_ratio` of named predictions; multiply a squared error by its square."""
    return error_ratio(line(source, alpha, sigma), line(target, alpha, sigma), alpha, sigma)


def _same(a: Line, b: Line) -> bool:
    fixed = all(isinstance(v, float) for v in (*a, *b))
    return a is b or (fixed and a == b)


def _away_from_zero(value: Array) -> Array:
    return jnp.where(jnp.abs(value) < _SMALLEST, jnp.where(value < 0, -_SMALLEST, _SMALLEST), value)
