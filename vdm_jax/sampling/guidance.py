"""Classifier-free guidance as a denoiser transform (arXiv 2207.12598).

    D = D_null + w (D_cond - D_null)

in x0 space; since every prediction is linear in x0_hat at a given x_t, this equals guidance of eps, v or velocity.

Several conditions (InstructPix2Pix, arXiv 2211.09800) are added one after the other, each with its own scale:

    D = D(none) + w_1 (D(c_1) - D(none)) + w_2 (D(c_1, c_2) - D(c_1)) + ...

All branches run as one network call on a batch that is 2 (or n + 1) times as large.

Rescale (arXiv 2305.08891, section 3.4): large scales inflate the standard deviation of the result;
`D <- r D std(D_cond) / std(D) + (1 - r) D`, with the standard deviation taken over each example.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vdm_jax.diffusion.conditioning import unconditional
from vdm_jax.diffusion.leaves import expand, frame_times
from vdm_jax.errors import did_you_mean
from vdm_jax.sampling.denoiser import Denoiser
from vdm_jax.types import Array, Clip, Condition, Time

Scale = float | Array


def guided(denoiser: Denoiser, scale: Scale, null: Mapping[str, Any], rescale: float = 0.0) -> Denoiser:
    """Guides towards all the conditions that `null` names.

    Args:
      denoiser: called once, on a doubled batch (unconditional half first).
      scale: w; a number, `[T]` for a scale per frame, or `[B, T]`.  Exactly 1.0 leaves the denoiser as it is.
      null: key (`tokens`, `vector.fps` ...) -> unconditional value, batch dim 1 or B.
      rescale: r in [0, 1].

    Raises:
      ValueError: an empty `null`, `rescale` outside [0, 1]; when called, a key that the condition lacks, or a
        scale of another shape.
    """
    keys = [key for key in null if key != "tokens_mask"]
    return guided_nested(denoiser, [(keys, scale)], null, rescale)


def guided_nested(
    denoiser: Denoiser, terms: Sequence[tuple[Sequence[str], Scale]], null: Mapping[str, Any], rescale: float = 0.0
) -> Denoiser:
    """Guides towards several conditions, each with a scale of its own.

    Args:
      denoiser: called once, on a batch (n + 1) times as large.
      terms: n pairs (keys, scale), in the order in which the conditions are switched on.
      null: unconditional values; each of its keys must stand in exactly one term (`tokens_mask` goes with
        `tokens`).
      rescale: r in [0, 1].

    Raises:
      ValueError: a key of `null` in no term or in two, a term's key that `null` lacks, and as for `guided`.
    """
    if not 0.0 <= rescale <= 1.0:
        raise ValueError(f"rescale: {rescale!r} must lie between 0 and 1")
    _check_terms(terms, null)
    if all(isinstance(scale, (int, float)) and scale == 1 for _, scale in terms):
        return denoiser

    def guided_denoiser(x_t: Clip, t: Time, cond: Condition) -> Clip:
        t = frame_times(t, x_t)
        frames = t.shape[1]
        scales = [_as_scale(scale, frames) for _, scale in terms]
        off = [[key for keys, _ in terms[start:] for key in keys] for start in range(len(terms))]
        branches = [unconditional(cond, null, keys) for keys in off] + [dict(cond)]
        beliefs = _call_stacked(denoiser, x_t, t, branches)
        result = jax.tree.map(lambda *leaves: _combine(leaves, scales), *beliefs)
        if rescale > 0.0:
            result = jax.tree.map(lambda d, c: _rescaled(d, c, rescale), result, beliefs[-1])
        return result

    return guided_denoiser


def _call_stacked(denoiser: Denoiser, x_t: Clip, t: Time, branches: list[Condition]) -> list[Clip]:
    """One call for all branches, stacked along the batch; returns one belief per branch."""
    count = len(branches)
    x_all = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * count), x_t)
    cond_all = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *branches)
    belief = denoiser(x_all, jnp.concatenate([t] * count), cond_all)
    parts = jax.tree.map(lambda leaf: jnp.split(leaf, count), belief)
    return [jax.tree.map(lambda _, split, i=i: split[i], belief, parts) for i in range(count)]


def _combine(beliefs: Sequence[Array], scales: Sequence[Array]) -> Array:
    total = beliefs[0]
    for before, after, scale in zip(beliefs[:-1], beliefs[1:], scales):
        total = total + expand(scale, before) * (after - before)
    return total


def _rescaled(result: Array, conditional: Array, amount: float) -> Array:
    axes = tuple(range(1, result.ndim))
    wanted, is_now = (jnp.std(leaf, axis=axes, keepdims=True) for leaf in (conditional, result))
    factor = wanted / jnp.maximum(is_now, 1e-8)
    return amount * factor * result + (1.0 - amount) * result


def _as_scale(scale: Scale, frames: int) -> Array:
    """A scale as `[B, T]`, `[1, T]` or `[1, 1]`."""
    scale = jnp.asarray(scale, jnp.float32)
    if scale.ndim == 0:
        return scale.reshape(1, 1)
    if scale.ndim == 2 and scale.shape[1] == frames:
        return scale
    if scale.shape != (frames,):
        raise ValueError(f"scale: shape {scale.shape} is neither a scalar nor [T]=({frames},) nor [B, T]")
    return scale[None]


def _check_terms(terms: Sequence[tuple[Sequence[str], Scale]], null: Mapping[str, Any]) -> None:
    named = [key for keys, _ in terms for key in keys]
    if not named:
        raise ValueError("null: names no condition, there is nothing to guide towards")
    for key in named:
        if key not in null:
            raise ValueError(f"guidance: {did_you_mean(key, null)} (the unconditional values given)")
        if named.count(key) > 1:
            raise ValueError(f"guidance: {key!r} stands in two terms")
    unused = [key for key in null if key not in named and key != "tokens_mask"]
    if unused:
        raise ValueError(f"guidance: {unused[0]!r} has an unconditional value but stands in no term")
