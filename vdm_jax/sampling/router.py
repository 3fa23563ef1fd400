"""Which text is read by which layers, at which noise levels, for which frames.

    texts = side_by_side([blended([first, second], N), first], N)     text 0 is that of the frames, text 1 the base
    empty = side_by_side([null, null], N)                             as many for guidance
    network = route_text(network)                                     `adapters.routing`
    denoiser = guided(routed(make_denoiser(process, network), motion_injection(levels), 2), w, empty)

Motion injection (FreeNoise, arXiv 2310.15169): early steps decide the layout and late ones the look, and both follow
one base prompt; what moves is decided between them and in the decoder, and follows the prompts of the frames.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from vdm_jax.adapters.routing import GROUPS
from vdm_jax.diffusion.leaves import frame_times
from vdm_jax.sampling.denoiser import Denoiser
from vdm_jax.types import Array, Clip, Condition, Time

Text = Mapping[str, Array]
_HELD = 3 / 8  # of the frames of a pair of prompts, at each end


@dataclasses.dataclass(frozen=True)
class Rule:
    """Text number `inside` at levels from `low` to `high`, `outside` at all others."""

    inside: int
    outside: int
    low: float = 0.0
    high: float = float("inf")


@dataclasses.dataclass(frozen=True)
class ConditionRouter:
    """What each group of layers reads."""

    encoder: Rule
    middle: Rule
    decoder: Rule

    @property
    def texts(self) -> int:
        """How many there must be at least."""
        rules = [getattr(self, group) for group in GROUPS]
        return 1 + max(max(rule.inside, rule.outside) for rule in rules)


def motion_injection(levels: np.ndarray, first: int = 5, last: int = 15) -> ConditionRouter:
    """The published rule: text 0 is that of the frames, text 1 the base.

    Args:
      levels: `[K + 1]`, of the sampler.
      first, last: steps in which encoder and middle read the text of the frames; published for K = 50.

    Raises:
      ValueError: no such steps.
    """
    levels = np.asarray(levels, np.float64)
    if not 0 <= first <= last < len(levels) - 1:
        raise ValueError(f"first, last: {first}, {last} must be rising and within the {len(levels) - 1} steps")
    # Between the levels of two steps, so that rounding cannot move a step to the other side.
    low = (levels[last] + levels[last + 1]) / 2
    high = (levels[first - 1] + levels[first]) / 2 if first else float("inf")
    inner = Rule(0, 1, float(low), float(high))
    return ConditionRouter(inner, inner, Rule(0, 0))


def routed(denoiser: Denoiser, router: ConditionRouter, count: int) -> Denoiser:
    """Puts together what the groups read; guidance goes around it.

    Args:
      denoiser: of a network of `route_text`.
      router: the rules.
      count: P, texts in the condition.

    Raises:
      ValueError: fewer texts than the rules name; when called, tokens that are not those of `count` texts.
    """
    if count < router.texts:
        raise ValueError(f"count: {count} texts, but the router reads text number {router.texts - 1}")

    def told(x_t: Clip, t: Time, cond: Condition) -> Clip:
        t = frame_times(t, x_t)
        cond = dict(cond)
        for key in {"tokens", "tokens_mask"} & cond.keys():
            cond[key] = _of_groups(cond[key], key, t, router, count)
        return denoiser(x_t, t, cond)

    return told


def side_by_side(texts: Sequence[Text], frames: int) -> dict[str, Array]:
    """Several texts as one condition: `tokens [B, N, P L, D]`, and `tokens_mask [B, N, P L]` if the texts have one.

    Args:
      texts: each `tokens [B, L, D]` or per frame `[B, N, L, D]`, with `tokens_mask` or without.
      frames: N.

    Raises:
      ValueError: a text with rows for another number of frames.
    """
    joined = {}
    for key, rank in (("tokens", 4), ("tokens_mask", 3)):
        if key in texts[0]:
            joined[key] = jnp.concatenate([_per_frame(text[key], key, rank, frames) for text in texts], axis=2)
    return joined


def blended(texts: Sequence[Text], frames: int) -> dict[str, Array]:
    """One text a frame, from each to the next: held for 3/8 of their frames, then a straight line, then held again.

    Args:
      texts: two or more, each `tokens [B, L, D]`, with `tokens_mask [B, L]` or without; more than two are chained.
      frames: N.

    Returns:
      `tokens [B, N, L, D]`, and `tokens_mask [B, N, L]`: where the line mixes two texts, what either has.
    """
    if len(texts) < 2:
        raise ValueError(f"texts: {len(texts)} given, there is nothing to blend; two or more")
    place = np.linspace(0, len(texts) - 1, frames, endpoint=False)
    pair = np.floor(place).astype(int)
    share = np.clip((place - pair - _HELD) / (1 - 2 * _HELD), 0, 1)  # of the second of a pair
    stacked = jnp.stack([text["tokens"] for text in texts], axis=1)  # [B, P, L, D]
    mix = jnp.asarray(share, stacked.dtype)[None, :, None, None]
    joined = {"tokens": (1 - mix) * stacked[:, pair] + mix * stacked[:, pair + 1]}
    if "tokens_mask" in texts[0]:
        masks = jnp.stack([text["tokens_mask"] for text in texts], axis=1)  # [B, P, L]
        share = jnp.asarray(share)[None, :, None]
        joined["tokens_mask"] = (masks[:, pair] & (share < 1)) | (masks[:, pair + 1] & (share > 0))
    return joined


def _of_groups(value: Array, key: str, t: Time, router: ConditionRouter, count: int) -> Array:
    """Texts `[B, N, P L, ...]` -> those of the groups, `[B, N, 3 L, ...]`, by the level of each frame."""
    if value.shape[1:2] != t.shape[1:] or value.shape[2] % count:
        raise ValueError(f"condition: {key} of shape {value.shape} is not {count} texts for {t.shape[1]} frames")
    parts = jnp.split(value, count, axis=2)
    level = t.reshape(*t.shape, *[1] * (value.ndim - 2))
    rules = [getattr(router, group) for group in GROUPS]
    read = [jnp.where((level >= r.low) & (level <= r.high), parts[r.inside], parts[r.outside]) for r in rules]
    return jnp.concatenate(read, axis=2)


def _per_frame(value: Array, key: str, rank: int, frames: int) -> Array:
    if value.ndim == rank - 1:
        return jnp.broadcast_to(value[:, None], (value.shape[0], frames, *value.shape[1:]))
    if value.shape[1] != frames:
        raise ValueError(f"{key}: rows for {value.shape[1]} frames, the clip has {frames}")
    return value
