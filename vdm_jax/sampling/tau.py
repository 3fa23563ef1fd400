"""Level matrices `tau: [K + 1, T]`: which frame stands at which level before and after each of K steps.

Step k moves frame i from tau[k, i] to tau[k + 1, i]; a frame with equal entries stays as it is.  One loop over such
a matrix is every sampling scheme there is:

  uniform           all frames together                                    ordinary generation
  with_given        the given frames at 0 throughout                       image-to-video, prediction, interpolation
  from_level        all frames together, from a clip noised in part        video-to-video, clips like a picture
  staircase         frame i starts i * lag steps later                     pyramids, rolling and causal generation
                    (rolling diffusion, arXiv 2402.09470; lag = K is frame by frame)

Matrices are numpy float32, built on the host from `process.levels(K)`, so that they are checked before any compile.
"""

from collections.abc import Sequence

import numpy as np

from vdm_jax.errors import did_you_mean

RISING = ("refuse", "renoise", "invert")


def uniform(levels: np.ndarray, frames: int) -> np.ndarray:
    """All frames at the same level: `[K + 1]` levels to `[K + 1, T]`."""
    levels = _as_levels(levels)
    if frames < 1:
        raise ValueError(f"frames: {frames!r} must be at least 1")
    return np.repeat(levels[:, None], frames, axis=1)


def from_level(levels: np.ndarray, start: float) -> np.ndarray:
    """The levels of a clip that is there already, noised to `start`: that one, and those of `levels` below it.

    Editing a video starts so (SDEdit, arXiv 2108.01073), and so does a clip that is to resemble a picture.

    Raises:
      ValueError: a start that is not above 0, or above the first level.
    """
    levels, start = _as_levels(levels), np.float32(start)
    if not 0.0 < start <= levels[0]:
        raise ValueError(f"start: {start} must be above 0 and at most {levels[0]}, the first level")
    return np.concatenate([[start], levels[levels < start]])


def with_given(levels: np.ndarray, frames: int, given: Sequence[int]) -> np.ndarray:
    """Generates the other frames while the `given` ones stay clean (level 0).

    Raises:
      ValueError: an index outside the clip, or nothing left to generate.
    """
    tau = uniform(levels, frames)
    for index in given:
        if not 0 <= index < frames:
            raise ValueError(f"given: frame {index} is not in a clip of {frames} frames (0 to {frames - 1})")
    if len(set(given)) == frames:
        raise ValueError(f"given: all {frames} frames are given, nothing is left to generate")
    tau[:, list(given)] = 0.0
    return tau


def image_to_video(levels: np.ndarray, frames: int, frame: int = 0) -> np.ndarray:
    """One given frame, anywhere in the clip."""
    return with_given(levels, frames, [frame])


def prediction(levels: np.ndarray, frames: int, given: int) -> np.ndarray:
    """The first `given` frames are there, the rest follows (also: one chunk of a longer video).

    Raises:
      ValueError: `given` below 1, or not below T.
    """
    if not 1 <= given < frames:
        raise ValueError(f"given: {given!r} must be at least 1 and below the {frames} frames of the clip")
    return with_given(levels, frames, range(given))


def interpolation(levels: np.ndarray, frames: int) -> np.ndarray:
    """The first and the last frame are given."""
    if frames < 3:
        raise ValueError(f"frames: {frames!r}, there is nothing between the first and the last frame")
    return with_given(levels, frames, [0, frames - 1])


def staircase(levels: np.ndarray, frames: int, lag: int) -> np.ndarray:
    """Frame i follows frame 0 with a delay of `i * lag` steps, waiting at the prior: `[K + lag (T - 1) + 1, T]`.

    lag = 0 is `uniform`, lag = 1 a pyramid, lag = K one frame after the other.

    Raises:
      ValueError: lag below 0.
    """
    levels = _as_levels(levels)
    if lag < 0:
        raise ValueError(f"lag: {lag!r} must be at least 0")
    steps = len(levels) - 1
    rows = np.arange(steps + lag * (frames - 1) + 1)
    return levels[np.clip(rows[:, None] - lag * np.arange(frames)[None], 0, steps)]


def check_tau(tau: np.ndarray, frames: int, t_max: float, rising: str = "refuse") -> np.ndarray:
    """Returns tau as float32 `[K + 1, T]` after judging it.

    Args:
      tau: `[K + 1, T]`, or `[K + 1]` for all frames alike.
      frames: T.
      t_max: the level of the prior.
      rising: what a frame that goes back up means: `refuse`, `renoise` (fresh noise) or `invert` (the ODE backwards).

    Raises:
      ValueError: another shape, fewer than two rows, levels outside [0, t_max] or not finite, or a frame that
        rises although that is refused, or is to be inverted from level 0, where its noise is unknown; names the
        first offender.
    """
    if rising not in RISING:
        raise ValueError(f"rising: {did_you_mean(rising, RISING)}")
    tau = np.asarray(tau, np.float32)
    if tau.ndim == 1:
        tau = np.repeat(tau[:, None], frames, axis=1)
    if tau.ndim != 2 or tau.shape[1] != frames:
        raise ValueError(f"tau: shape {tau.shape} is neither [K + 1] nor [K + 1, T] with T={frames}")
    if tau.shape[0] < 2:
        raise ValueError(f"tau: {tau.shape[0]} row(s), a step needs two")
    outside = ~(np.isfinite(tau) & (tau >= 0.0) & (tau <= np.float32(t_max)))
    if outside.any():
        k, i = np.argwhere(outside)[0]
        raise ValueError(f"tau[{k}, {i}]: {tau[k, i]} lies outside 0 to t_max={t_max}")
    rises = np.diff(tau, axis=0) > 0.0
    if rising == "invert" and (rises & (tau[:-1] == 0.0)).any():
        k, i = np.argwhere(rises & (tau[:-1] == 0.0))[0]
        raise ValueError(f"tau[{k}, {i}]: 0 has no noise to follow upwards; start at a small level above 0")
    if rises.any() and rising == "refuse":
        k, i = np.argwhere(rises)[0]
        raise ValueError(
            f"tau[{k + 1}, {i}]: {tau[k + 1, i]} is above tau[{k}, {i}] = {tau[k, i]}; a frame that goes back up has"
            " to be noised again (rising='renoise') or to follow the ODE (rising='invert')"
        )
    return tau


def check_lands(lands: np.ndarray, tau: np.ndarray, t_max: float) -> np.ndarray:
    """Returns the levels at which steps arrive as float32 `[K, T]` after judging them.

    Args:
      lands: `[K, T]`, or `[K]` for all frames alike.
      tau: as checked, `[K + 1, T]`.
      t_max: the level of the prior.

    Raises:
      ValueError: another shape, levels outside [0, t_max], or an end that is not that of tau.
    """
    lands = np.asarray(lands, np.float32)
    if lands.ndim == 1:
        lands = np.repeat(lands[:, None], tau.shape[1], axis=1)
    if lands.shape != tau[1:].shape:
        raise ValueError(f"lands: shape {lands.shape} is neither [K] nor [K, T]={tau[1:].shape}")
    outside = ~(np.isfinite(lands) & (lands >= 0.0) & (lands <= np.float32(t_max)))
    if outside.any():
        k, i = np.argwhere(outside)[0]
        raise ValueError(f"lands[{k}, {i}]: {lands[k, i]} lies outside 0 to t_max={t_max}")
    if (lands[-1] != tau[-1]).any():
        raise ValueError(f"lands[-1]: {lands[-1]} is not where tau ends, {tau[-1]}")
    return lands


def _as_levels(levels: np.ndarray) -> np.ndarray:
    levels = np.asarray(levels, np.float32)
    if levels.ndim != 1 or len(levels) < 2:
        raise ValueError(f"levels: shape {levels.shape} is not [K + 1] with K at least 1")
    return levels
