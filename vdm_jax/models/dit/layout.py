"""How the tokens `[B, T, S, D]` of a clip lie on the context axis from block to block.

    full          S is cut throughout: causal over frames is then the same work on every device
    factorised    dynamic: space blocks work on whole frames with T cut, time blocks on whole tubes with S cut, and one
                  all-to-all of the tokens goes between them; or S is cut throughout and space attention exchanges

What the axis does not divide is padded at the entrance or inside of the all-to-all.  Padded tokens are computed along
and seen by nobody: attention is told where they begin.
"""

import dataclasses

import jax

from vdm_jax.attention.chosen import note
from vdm_jax.attention.layout import resize
from vdm_jax.attention.partition import CONTEXT, ENOUGH, busy, check_degree, choose_exchange
from vdm_jax.errors import did_you_mean
from vdm_jax.sharding.context import axis_size
from vdm_jax.sharding.exchange import exchange, padded
from vdm_jax.sharding.rules import constrain

Array = jax.Array
FRAMES, SPACE = 1, 2  # dims of the tokens

EXCHANGES = ("ulysses", "ring", "hybrid")
PARTITIONS = {"full": ("auto", *EXCHANGES), "factorised": ("auto", "dynamic", *EXCHANGES)}


def check_partition(attention: str, partition: str) -> None:
    """Raises ValueError unless a model with this `attention` can be partitioned so."""
    if partition not in PARTITIONS[attention]:
        raise ValueError(f"partition: {did_you_mean(partition, PARTITIONS[attention])} (attention={attention!r})")


def choose_partition(attention: str, context: int, frames: int, heads: int) -> tuple[str, str]:
    """What `auto` means for a model.

    Args:
      attention: `full` or `factorised`.
      context: devices along the axis.
      frames: of tokens.
      heads: of one tensor shard.

    Returns:
      A name of `PARTITIONS`, or `local`, and one line of why.
    """
    if context == 1:
        return "local", "the mesh has no context axis"
    if attention == "factorised":
        share = busy(frames, context)
        if share >= ENOUGH:
            return "dynamic", f"{frames} frames keep {share:.0%} of {context} devices busy, for one exchange a block"
        name, why = choose_exchange(context, heads)
        return name, f"{frames} frames would keep {share:.0%} of {context} devices busy; {why}"
    return choose_exchange(context, heads)


@dataclasses.dataclass(frozen=True)
class TokenLayout:
    """The layout of one model's tokens on the current mesh.

    Attributes:
      frames, space: tokens along T and S that are not padding.
      partition: a name of `PARTITIONS`, or `local`.
    """

    frames: int
    space: int
    partition: str

    @classmethod
    def of(cls, attention: str, partition: str, frames: int, space: int, heads: int) -> "TokenLayout":
        """The layout for a clip of `frames` x `space` tokens.

        Raises:
          ValueError: the partition cannot cut the heads.
        """
        tensor = axis_size("tensor")
        heads = heads // tensor if heads % tensor == 0 else heads
        context = axis_size(CONTEXT)
        if partition == "auto" or context == 1:
            partition, why = choose_partition(attention, context, frames, heads)
            note("partition", lambda _: (partition, why))
        check_degree(partition, heads, context)
        return cls(frames, space, partition)

    @property
    def dynamic(self) -> bool:
        """Whether frames are cut in space blocks."""
        return self.partition == "dynamic"

    def enter(self, tokens: Array) -> Array:
        """Tokens `[B, T, S, ...]` as they come from the clip -> as the first block takes them."""
        return self.hold(self.pad(tokens))

    def leave(self, tokens: Array) -> Array:
        """The inverse of `enter`."""
        return tokens[:, : self.frames, : self.space]

    def hold(self, tokens: Array) -> Array:
        """Tells the compiler how tokens lie between units."""
        names = ("frames", None) if self.dynamic else (None, "tokens")
        return constrain(tokens, "batch", *names, None)

    def to_time(self, tokens: Array) -> Array:
        """From a space block to a time block."""
        return exchange(tokens, CONTEXT, join=FRAMES, split=SPACE, length=self.frames) if self.dynamic else tokens

    def to_space(self, tokens: Array) -> Array:
        """From a time block to a space block."""
        return exchange(tokens, CONTEXT, join=SPACE, split=FRAMES, length=self.space) if self.dynamic else tokens

    def pad(self, x: Array) -> Array:
        """`[..., T, S, D]` with zeros behind the frames, or behind the tokens of each, so that the axis divides them.

        A scalar stands for any such array.
        """
        if x.ndim == 0:
            return x
        return resize(x, -3, padded(x.shape[-3], CONTEXT)) if self.dynamic else self.pad_space(x, -2)

    def pad_space(self, x: Array, dim: int) -> Array:
        """What there is of every token of a frame, with as many as frames have in full and space blocks."""
        return x if self.dynamic else resize(x, dim, padded(x.shape[dim], CONTEXT))

    def like(self, frames: Array, tokens: Array) -> Array:
        """What there is of every frame, `[B, T, ...]`, with as many frames as these tokens have."""
        return resize(frames, FRAMES, tokens.shape[FRAMES])

    def rows(self, rows: Array, tokens: Array) -> Array:
        """The same for modulation, `[B, T, n, D]`: it is small and whole everywhere, as time blocks read all of it."""
        return self.like(constrain(rows, "batch", None, None, None), tokens)

    @property
    def within(self) -> str:
        """The partition of attention over the tokens of a clip, or of each frame in space blocks."""
        return "groups" if self.dynamic else self.partition

    @property
    def to_text(self) -> str:
        """The partition of attention of tokens to the prompt."""
        return {"dynamic": "groups", "local": "local"}.get(self.partition, "rows")
