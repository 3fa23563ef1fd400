"""Conditions made unconditional: for classifier-free guidance and for the dropout that trains it (arXiv 2207.12598).

Each key has its own "unconditional" value, listed in a `null` dict.  A key is a condition's (`tokens`) or one entry
of the vector conditions (`vector.fps`); a value has the shape of what it replaces, with a batch dim of 1 or B, or
is a scalar.  `tokens` and `tokens_mask` always go together: features of the empty prompt under the mask of another
prompt would be neither.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vdm_jax.errors import did_you_mean
from vdm_jax.types import Array, Condition

_FOLLOWS = {"tokens_mask": "tokens"}


def drop_conditions(cond: Condition, null: Mapping[str, Any], rates: Mapping[str, float], rng: Array) -> dict:
    """Replaces conditions by their unconditional value, per example and per key.

    Args:
      cond: conditions, every array with the batch in front.
      null: key -> unconditional value.
      rates: key -> probability; keys that are not named are never dropped.  `tokens` takes `tokens_mask` along.
      rng: key; each named key draws for itself.

    Returns:
      A new condition dict.

    Raises:
      ValueError: a rate for a key that `cond` or `null` lacks, `tokens_mask` named by itself, or no probability.
    """
    for key, rate in rates.items():
        if not isinstance(rate, (int, float)) or not 0.0 <= rate <= 1.0:
            raise ValueError(f"dropout.{key}: {rate!r} is not a probability, allowed: 0 to 1")
    groups = {key: _with_followers([key], cond, null, "dropout") for key in rates}
    for index, key in enumerate(sorted(rates)):  # sorted: a run must not change with the order of a config file
        drop = jax.random.bernoulli(jax.random.fold_in(rng, index), rates[key], (_batch(cond),))
        cond = _replace(cond, null, groups[key], drop)
    return dict(cond)


def with_pictures(cond: Condition, may_read: Iterable[str], batch: int, frames: int) -> dict:
    """A condition that says of clips of one frame that they are pictures (`image_only`), to a network that knows some.

    So pictures and videos train together, and what layers over time have learned does not show in a picture.

    Args:
      cond: conditions; one that says it already stays.
      may_read: keys that the network reads where they are given.
      batch, frames: of the clips.
    """
    if frames > 1 or "image_only" in cond or "image_only" not in may_read:
        return dict(cond)
    return {**cond, "image_only": jnp.ones((batch, 1), bool)}


def unconditional(cond: Condition, null: Mapping[str, Any], keys: Iterable[str] | None = None) -> dict:
    """Replaces the named keys (default: all of `null`) by their unconditional value in the whole batch.

    Raises:
      ValueError: a key that `cond` or `null` lacks, or `tokens` without its mask.
    """
    keys = list(null if keys is None else keys)
    leaders = [key for key in keys if _FOLLOWS.get(key) not in keys]
    return _replace(cond, null, _with_followers(leaders, cond, null, "null"), None)


def _with_followers(keys: Iterable[str], cond: Condition, null: Mapping[str, Any], field: str) -> list[str]:
    """Checks keys against a condition and its unconditional values; adds the mask that belongs to `tokens`."""
    present = _names(cond)
    full = []
    for key in keys:
        if key not in present:
            raise ValueError(f"{field}.{key}: {did_you_mean(key, present)} (the conditions of this batch)")
        if key in _FOLLOWS:
            raise ValueError(f"{field}.{key}: follows {_FOLLOWS[key]!r}; name that one")
        followers = [name for name, leader in _FOLLOWS.items() if leader == key and name in present]
        for name in (key, *followers):
            if name not in null:
                raise ValueError(f"{field}.{key}: no unconditional value for {name!r} (there is one for: "
                                 f"{', '.join(sorted(null)) or 'nothing'})")  # fmt: skip
            full.append(name)
    return full


def _names(cond: Condition) -> list[str]:
    names = [key for key in cond if key != "vector"]
    return names + [f"vector.{name}" for name in cond.get("vector", {})]


def _batch(cond: Condition) -> int:
    leaves = jax.tree.leaves(cond)
    if not leaves:
        raise ValueError("condition: is empty, nothing can be dropped")
    return leaves[0].shape[0]


def _replace(cond: Condition, null: Mapping[str, Any], names: Iterable[str], drop: Array | None) -> dict:
    """Puts null values in place: where `drop [B]` holds, or everywhere if it is None."""
    new = dict(cond)
    for name in names:
        if name.startswith("vector."):
            entry = name.removeprefix("vector.")
            new["vector"] = {**new["vector"], entry: _put(new["vector"][entry], null[name], drop, name)}
        else:
            new[name] = _put(new[name], null[name], drop, name)
    return new


def _put(value: Array, empty: Any, drop: Array | None, name: str) -> Array:
    value = jnp.asarray(value)
    try:
        empty = jnp.broadcast_to(jnp.asarray(empty, value.dtype), value.shape)
    except ValueError:
        raise ValueError(
            f"null.{name}: shape {jnp.shape(empty)} cannot stand in for {value.shape} (batch dim 1 or B, rest equal)"
        ) from None
    if drop is None:
        return empty
    return jnp.where(drop.reshape((-1,) + (1,) * (value.ndim - 1)), empty, value)
