"""Variance-preserving noise tables, and levels between their entries.

    alphas_cumprod_i = prod_{j <= i} (1 - beta_j)      alpha_i = sqrt(alphas_cumprod_i)      sigma_i^2 = 1 - alpha_i^2

  linear         beta evenly spaced from beta_start to beta_end                (DDPM, arXiv 2006.11239)
  scaled_linear  sqrt(beta) evenly spaced                                      (latent diffusion, 2112.10752)
  cosine         alphas_cumprod = cos^2((t + 0.008) / 1.008 * pi / 2), beta capped at 0.999   (2102.09672)

SNR shift (CogVideoX, arXiv 2408.06072): SNR is divided by s, alphas_cumprod -> alphas_cumprod / (s + (1 - s)
alphas_cumprod).  Zero-terminal-SNR rescale (arXiv 2305.08891, algorithm 1): sqrt(alphas_cumprod) is shifted and scaled
so that the last entry is 0 and the first one stays.

All tables are float64 numpy: they are built once, on the host, and 1 - alphas_cumprod near 0 deserves the digits.
Beta and alphas_cumprod are rounded to float32 first, in the way of the tables that published weights were trained with:
at the first entries, 1 - alphas_cumprod differs by 1e-4 from what exact arithmetic gives.
"""

import functools

import jax.numpy as jnp
import numpy as np

from vdm_jax.errors import did_you_mean
from vdm_jax.types import Array

SCHEDULES = ("linear", "scaled_linear", "cosine")
_SNAP = 1e-4  # float32 rounding of t * N for N = 1000 stays under 6.1e-5


def make_betas(schedule: str, steps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> np.ndarray:
    """Returns beta `[N]` float32; `cosine` has no use for the two ends.

    Raises:
      ValueError: an unknown schedule.
    """
    if schedule == "linear":
        return _line(beta_start, beta_end, steps)
    if schedule == "scaled_linear":
        return _line(beta_start**0.5, beta_end**0.5, steps) ** 2
    if schedule == "cosine":
        grid = np.arange(steps + 1) / steps
        kept = np.cos((grid + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1.0 - kept[1:] / kept[:-1], 0.999).astype(np.float32)
    raise ValueError(f"schedule: {did_you_mean(schedule, SCHEDULES)}")


def make_alphas_cumprod(betas: np.ndarray, zero_terminal_snr: bool = False, snr_shift: float = 1.0) -> np.ndarray:
    """Returns alphas_cumprod `[N]` float64, shifted, then rescaled to end at exactly 0 if `zero_terminal_snr`."""
    kept = np.cumprod((np.float32(1.0) - betas).astype(np.float64)).astype(np.float32).astype(np.float64)
    kept = kept / (snr_shift + (1.0 - snr_shift) * kept)
    if not zero_terminal_snr:
        return kept
    root = np.sqrt(kept)
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return root**2


def _line(start: float, end: float, steps: int) -> np.ndarray:
    """Evenly spaced float32 from a float32 step, counted from the nearer end (torch.linspace, bit for bit)."""
    start, end = np.float32(start), np.float32(end)
    step, index = np.float64((end - start) / np.float32(steps - 1)), np.arange(steps)
    rising, falling = np.float64(start) + step * index, np.float64(end) - step * (steps - 1 - index)
    return np.where(index < steps // 2, rising, falling).astype(np.float32)


@functools.lru_cache(maxsize=32)
def alpha_sigma_table(
    schedule: str, steps: int, beta_start: float, beta_end: float, zero_terminal_snr: bool, snr_shift: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (alpha, sigma), each `[N + 1]` float64; entry 0 is clean (1, 0), entry i + 1 is diffusers' index i."""
    kept = make_alphas_cumprod(make_betas(schedule, steps, beta_start, beta_end), zero_terminal_snr, snr_shift)
    kept = np.concatenate([[1.0], kept])
    tables = np.sqrt(kept), np.sqrt(1.0 - kept)
    for table in tables:
        table.setflags(write=False)  # cached, so shared
    return tables


def interpolate_level(alphas: np.ndarray, sigmas: np.ndarray, t: Array) -> tuple[Array, Array]:
    """Levels at any t in [0, 1] from tables whose entry i stands at t = i / N.

    (alpha, sigma) moves on the chord between two neighbouring entries and is then put back on the unit circle:
    monotone in log-SNR, exactly variance preserving, exact at the entries, and regular at both ends, where log-SNR
    itself is infinite (t = 0; t = 1 with zero terminal SNR) and cannot be interpolated.

    Args:
      alphas, sigmas: `[N + 1]`.
      t: any shape, float32.

    Returns:
      (alpha, sigma), float32, of t's shape.
    """
    steps = len(alphas) - 1
    position = jnp.clip(jnp.asarray(t, jnp.float32) * steps, 0.0, steps)
    entry = jnp.round(position)
    position = jnp.where(jnp.abs(position - entry) < _SNAP, entry, position)  # t = i / N must hit entry i
    low = jnp.clip(jnp.floor(position).astype(jnp.int32), 0, steps - 1)
    part = position - low

    def chord(table):
        table = jnp.asarray(table, jnp.float32)
        return table[low] * (1.0 - part) + table[low + 1] * part

    alpha, sigma = chord(alphas), chord(sigmas)
    length = jnp.sqrt(alpha**2 + sigma**2)
    return alpha / length, sigma / length


def invert_level(alphas: np.ndarray, sigmas: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """The t at which `interpolate_level` has a given sigma / alpha; float64, on the host.

    Args:
      alphas, sigmas: `[N + 1]`.
      ratio: any shape, from 0 to the table's largest.

    Raises:
      ValueError: a ratio that no level has.
    """
    ratio = np.asarray(ratio, np.float64)
    ratios = sigmas / np.maximum(alphas, 1e-30)
    if not ((ratio >= 0.0) & (ratio <= ratios[-1] * (1.0 + 1e-6))).all():
        raise ValueError(f"sigma: {ratio.max():.6g} lies outside the levels of the table, 0 to {ratios[-1]:.6g}")
    low = np.clip(np.searchsorted(ratios, ratio, side="right") - 1, 0, len(ratios) - 2)
    rise, fall = sigmas[low + 1] - sigmas[low], alphas[low + 1] - alphas[low]
    part = (ratio * alphas[low] - sigmas[low]) / (rise - ratio * fall)
    return (low + np.clip(part, 0.0, 1.0)) / (len(alphas) - 1)
