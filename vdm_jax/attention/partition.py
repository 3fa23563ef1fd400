"""Where attention is computed: what the devices of the `context` axis hold of it, and what they exchange.

| partition | on a device                                          | sent by a device, in shards of q (R devices)      |
| --------- | ---------------------------------------------------- | ------------------------------------------------- |
| `local`   | everything; the axis has no part in it               | nothing                                           |
| `groups`  | whole sequences, some of them                        | nothing                                           |
| `rows`    | some queries, all keys (few: cross-attention)        | nothing; backward the sum of dk and dv            |
| `ulysses` | some heads of all tokens                             | 4 (R - 1) / R forward, 4 (R - 1) / R backward     |
| `ring`    | some tokens of all heads, the others' keys in turn   | 2 (R - 1) forward, 4 (R - 1) or less backward     |
| `hybrid`  | some heads of some tokens: a ring of ulysses groups  | as ulysses in a group, and as ring of the groups  |

(A zig-zag ring deals tokens out first: at most one shard more for each of q, k, v, the output and their gradients.)
Batch and heads are cut by the same rules as everywhere, over `data`, `fsdp` and `tensor`.
"""

import dataclasses
import math

from vdm_jax.attention.chosen import note
from vdm_jax.attention.layout import GROUPS, HEADS, TOKENS
from vdm_jax.errors import did_you_mean

CONTEXT = "context"
ENOUGH = 0.75  # of the devices busy is better than all of them, exchanging
PARTITIONS = ("local", "groups", "rows", "ulysses", "ring", "hybrid")


@dataclasses.dataclass(frozen=True)
class Partition:
    """One line of the table above, for a mesh.

    Attributes:
      name: of it.
      cut: which dim of the queries `[B, G, H, T, S, D]` the context axis cuts; None for `local`.
      ring, ulysses: how the axis is shared out between the two when devices exchange; 1 x 1 when they do not.
    """

    name: str
    cut: int | None = None
    ring: int = 1
    ulysses: int = 1

    @property
    def exchanges(self) -> bool:
        """Whether devices send each other operands."""
        return self.ring * self.ulysses > 1


LOCAL = Partition("local")


def check_partition(name: str) -> None:
    """Raises ValueError unless `name` is `auto` or one of `PARTITIONS`."""
    if name != "auto" and name not in PARTITIONS:
        raise ValueError(f"partition: {did_you_mean(name, ('auto', *PARTITIONS))}")


def choose_partition(context: int, q_shape: tuple[int, ...], k_shape: tuple[int, ...]) -> tuple[str, str]:
    """What `auto` means.

    Args:
      context: devices along the axis.
      q_shape, k_shape: `[B, G, H, T, S, D]` with the heads of one tensor shard.

    Returns:
      The name of a partition, and one line of why.
    """
    n_q, n_k = math.prod(q_shape[3:5]), math.prod(k_shape[3:5])
    if context == 1:
        return "local", "the mesh has no context axis"
    if q_shape[GROUPS] > 1 and busy(q_shape[GROUPS], context) >= ENOUGH:
        return "groups", f"{q_shape[GROUPS]} sequences an example go to {context} devices whole"
    if n_k < n_q:
        return "rows", f"{n_k} keys for {n_q} queries are few enough to be everywhere"
    return choose_exchange(context, q_shape[HEADS])


def busy(count: int, devices: int) -> float:
    """The share of devices with work where `count` equal things are dealt out to them, and none is cut."""
    return count / (-(-count // devices) * devices)


def choose_exchange(context: int, heads: int) -> tuple[str, str]:
    """What `auto` means for tokens that are cut.

    Args:
      context: devices along the axis.
      heads: of one tensor shard.

    Returns:
      `ulysses`, `ring` or `hybrid`, and one line of why: an exchange of heads sends least where they divide.
    """
    degree = math.gcd(heads, context)
    if degree == context:
        return "ulysses", f"{heads} heads divide by context {context}"
    if degree == 1:
        return "ring", f"{heads} heads and context {context} have no common factor"
    return "hybrid", f"{heads} heads do not divide by context {context}, but by {degree} of it"


def partition_for(name: str, context: int, q_shape: tuple[int, ...], k_shape: tuple[int, ...]) -> Partition:
    """The partition of a name (or of `auto`); arguments as in `choose_partition`.

    Raises:
      ValueError: no such partition, or the heads do not divide as it needs.
    """
    check_partition(name)
    if context == 1:
        return LOCAL
    if name == "auto":
        name, why = choose_partition(context, q_shape, k_shape)
        note("partition", lambda _: (name, why))
    check_degree(name, q_shape[HEADS], context)
    if name == "local":
        return LOCAL
    if name in ("groups", "rows"):
        return Partition(name, GROUPS if name == "groups" else TOKENS)
    degree = {"ring": 1, "ulysses": context, "hybrid": _hybrid_degree(q_shape[HEADS], context)}[name]
    return Partition(name, TOKENS, context // degree, degree)


def check_degree(name: str, heads: int, context: int) -> None:
    """Refuses a partition that cannot cut the heads.

    Args:
      name: of a partition, or `auto`.
      heads: of one tensor shard.
      context: devices along the axis.

    Raises:
      ValueError: names both sides and the nearest that works.
    """
    if name == "ulysses" and heads % context:
        near = min((k for k in range(1, heads + 1) if heads % k == 0), key=lambda k: abs(k - context))
        raise ValueError(
            f"partition: 'ulysses' cannot cut {heads} heads (of one tensor shard) over context {context}; the nearest"
            f" context that divides them is {near}, or use 'hybrid', 'ring' or 'auto'"
        )
    if name == "hybrid" and context > 1 and _hybrid_degree(heads, context) == 1:
        use = "'ulysses'" if heads % context == 0 else "'ring'"
        raise ValueError(
            f"partition: 'hybrid' needs a factor of context {context} below it that divides the {heads} heads"
            f" (of one tensor shard); use {use} or 'auto'"
        )


def _hybrid_degree(heads: int, context: int) -> int:
    """The largest ulysses degree below `context` that divides it and the heads."""
    return max((k for k in range(1, context) if context % k == 0 and heads % k == 0), default=1)
