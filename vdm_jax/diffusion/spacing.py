"""Which K levels sampling visits: entries of a table, or a ladder of sigmas, as published samplers choose them.

Entries (arXiv 2305.08891, table 2), of a table of N, from the noisiest down, 0-based as the network is told:

  leading   i (N // K) + offset            never reaches the last entry
  trailing  N - i N / K - 1, rounded       starts at the last entry
  linspace  from N - 1 down to 0, both included, rounded
  subset    K of the M entries (j + 1) (N // M) - 1 that a consistency model was distilled at (arXiv 2310.04378)

`spare` is 1 where a published sampler divides the range into K + 1 parts and leaves the last point out.

Ladders, from the largest sigma to the smallest:

  karras       evenly spaced in sigma^(1/7)      (arXiv 2206.00364)
  exponential  evenly spaced in log sigma
  beta         quantiles of Beta(0.6, 0.6)       (arXiv 2407.12173)

All of it is float64 or int64 numpy on the host.
"""

import numpy as np
from scipy.special import betaincinv

_RHO, _BETA = 7.0, 0.6


def leading(entries: int, steps: int, offset: int = 0, spare: int = 0) -> np.ndarray:
    """Entries `[K]`, `entries // (steps + spare)` apart."""
    return np.arange(steps + spare)[::-1][:steps] * (entries // (steps + spare)) + offset


def trailing(entries: int, steps: int) -> np.ndarray:
    """Entries `[K]`, `entries / steps` apart, the last one included.

    For some K (61, 122 ... of 1000) diffusers' rounding adds one more step, at entry -1; here there are K.
    """
    return np.round(np.arange(entries, 0, -entries / steps)[:steps]).astype(np.int64) - 1


def linspace(entries: int, steps: int, spare: int = 0) -> np.ndarray:
    """Entries `[K]` between both ends; a single step stands at entry 0, unless `spare`."""
    return np.round(np.linspace(0, entries - 1, steps + spare)).astype(np.int64)[::-1][:steps]


def subset(entries: int, steps: int, distilled: int) -> np.ndarray:
    """Entries `[K]` out of the `distilled` ones, the last one included.

    Raises:
      ValueError: more steps than were distilled.
    """
    if steps > distilled:
        raise ValueError(f"steps: {steps!r} is more than the {distilled} that were distilled")
    known = np.arange(1, distilled + 1) * (entries // distilled) - 1
    return known[::-1][spread(distilled, steps)]


def spread(count: int, steps: int) -> np.ndarray:
    """`[K]` of the numbers 0 to count - 1, evenly spread from 0 and rounded down; K at most `count`."""
    return np.floor(np.linspace(0, count, steps, endpoint=False)).astype(np.int64)


def karras(low: float, high: float, steps: int) -> np.ndarray:
    """Sigmas `[K]`; a single one is the largest."""
    ramp = np.linspace(0.0, 1.0, steps)
    return (high ** (1 / _RHO) + ramp * (low ** (1 / _RHO) - high ** (1 / _RHO))) ** _RHO


def exponential(low: float, high: float, steps: int) -> np.ndarray:
    """Sigmas `[K]`; a single one is the largest."""
    return np.exp(np.linspace(np.log(high), np.log(low), steps))


def beta(low: float, high: float, steps: int) -> np.ndarray:
    """Sigmas `[K]`; a single one is the largest."""
    return low + betaincinv(_BETA, _BETA, 1.0 - np.linspace(0.0, 1.0, steps)) * (high - low)


def stretch_to(levels: np.ndarray, terminal: float) -> np.ndarray:
    """Levels of a flow, stretched away from 1 so that the smallest becomes `terminal`."""
    return 1.0 - (1.0 - levels) * (1.0 - terminal) / (1.0 - levels[-1])
