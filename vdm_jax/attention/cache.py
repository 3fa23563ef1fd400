"""Keys and values of earlier frames, kept for later queries: chunk after chunk of a clip of any length.

A cache holds the newest `F` frames as a ring queue: frame number n lies in slot `n mod F`, so an append overwrites the
oldest frames and nothing ever moves.  It is a pytree of arrays with fixed shapes and every change returns a new cache.
So it can be carried through a `lax.scan`, and shared by the sampling steps of a chunk: each step appends its noisy
frames to the same cache and drops the result, and only the finished chunk is appended for good.

    cache = KVCache.empty(batch, heads, frames=F, tokens=S, head_dim=c, dtype=dtype)
    for each chunk of m frames:
        for each sampling step:
            now = cache.append(k, v)
            out = attend(q, now.k, now.v, policy=now.policy(m), layout="BHTSD")
        cache = now

Or the cache changes with finished frames only, and a noisy chunk reads it with its own keys behind it (`beside`):
then as many slots as earlier frames are enough.  That is how Ca2-VDM (2411.16375) samples.

On a mesh the cache is cut like the keys it holds: heads over `tensor` and, within each frame, tokens over `context`
(`over="tokens"`, for every partition), or all of it by heads over `tensor` and `context` together (`over="heads"`).
There `attend(..., keys="heads")` with `ulysses` reads it in place, and what was once exchanged is never sent again.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vdm_jax.attention.policy import Policy
from vdm_jax.errors import did_you_mean
from vdm_jax.sharding.rules import constrain

Array = jax.Array

CUTS = {"tokens": ("batch", "heads", None, "tokens", None), "heads": ("batch", "all_heads", None, None, None)}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of the newest frames.

    Attributes:
      k, v: `[B, H, F, S, D]`, F slots of a frame each.
      count: int32 scalar, frames appended since the beginning.
      over: what the mesh cuts beside the batch, `tokens` or `heads`; see the module.
    """

    k: Array
    v: Array
    count: Array
    over: str = dataclasses.field(default="tokens", metadata={"static": True})

    def __post_init__(self):
        if self.over not in CUTS:
            raise ValueError(f"over: {did_you_mean(self.over, CUTS)}")

    @classmethod
    def empty(
        cls, batch: int, heads: int, *, frames: int, tokens: int, head_dim: int, dtype=jnp.float32, over: str = "tokens"
    ) -> "KVCache":
        """A cache of `frames` slots with `tokens` tokens each, and nothing in them.

        Raises:
          ValueError: no slot, or an `over` that does not exist.
        """
        if frames < 1:
            raise ValueError(f"frames: {frames} slots; a cache needs 1 or more")
        zeros = jnp.zeros((batch, heads, frames, tokens, head_dim), dtype)
        return cls(zeros, zeros, jnp.int32(0), over)._placed()

    @property
    def capacity(self) -> int:
        """Frames it can hold."""
        return self.k.shape[2]

    def append(self, k: Array, v: Array) -> "KVCache":
        """Adds frames `[B, H, m, S, D]`, the oldest fall out; of more frames than slots the last stay.

        Raises:
          ValueError: frames of another shape or dtype than those held.
        """
        held, given = self.k.shape, k.shape
        if k.shape != v.shape or (*given[:2], *given[3:]) != (*held[:2], *held[3:]) or k.dtype != self.k.dtype:
            got = f"{k.dtype}{list(given)} and {v.dtype}{list(v.shape)}"
            raise ValueError(f"k, v: {got} cannot be appended to frames of a cache {self.k.dtype}{list(held)}")
        new = k.shape[2]
        kept = min(new, self.capacity)
        slots = (self.count + jnp.arange(new - kept, new)) % self.capacity
        write = lambda all, some: all.at[:, :, slots].set(some[:, :, new - kept :], unique_indices=True)  # noqa: E731
        changed = dataclasses.replace(self, k=write(self.k, k), v=write(self.v, v), count=self.count + new)
        return changed._placed()

    def read(self) -> tuple[Array, Array, Array]:
        """`k`, `v` `[B, H, F, S, D]` and the number of the frame in each slot `[F]` int32, -1 where there is none."""
        newest = self.count - 1
        number = newest - (newest - jnp.arange(self.capacity)) % self.capacity
        return self.k, self.v, jnp.maximum(number, -1)

    def reset(self) -> "KVCache":
        """Forgets all frames; the arrays stay as they are and are not seen any more."""
        return dataclasses.replace(self, count=jnp.zeros_like(self.count))

    def newest(self, frames: int) -> tuple[Array, Array]:
        """Keys and values of the newest frames, `[B, H, frames, S, D]`, oldest first; of fewer the oldest is repeated.

        Raises:
          ValueError: more frames than slots.
        """
        if not 1 <= frames <= self.capacity:
            raise ValueError(f"frames: {frames} of a cache that holds {self.capacity}; use 1 to that many")
        number = jnp.maximum(self.count - frames + jnp.arange(frames), jnp.maximum(self.count - self.capacity, 0))
        slots = number % self.capacity
        return self.k[:, :, slots], self.v[:, :, slots]

    def places(self) -> Array:
        """Place in the queue of the frame in each slot `[F]` int32: 0 is the oldest held, -1 where there is none."""
        number = self.read()[2]
        return jnp.where(number < 0, -1, number - jnp.maximum(self.count - self.capacity, 0))

    @property
    def held(self) -> Array:
        """Frames that are in it, an int32 scalar."""
        return jnp.minimum(self.count, self.capacity)

    def seen(self, queries: int, *, causal: bool = False, window: int | None = None) -> Array:
        """Which slots the newest `queries` frames see, `[queries, F]` bool; arguments and errors as in `policy`."""
        if not 1 <= queries <= self.capacity:
            raise ValueError(f"queries: {queries} frames ask a cache that holds {self.capacity}; use 1 to that many")
        number = self.read()[2]
        asking = self.count - queries + jnp.arange(queries)
        seen = jnp.broadcast_to(number >= 0, (queries, self.capacity))
        if causal:
            seen &= number <= asking[:, None]
        if window is not None:
            seen &= number > asking[:, None] - window
        return seen

    def beside(self, k: Array, v: Array, *, causal: bool = False) -> tuple[Array, Array, Array]:
        """What is held, and behind it frames `[B, H, m, S, D]` that are not (a chunk that is still noisy).

        Args:
          k, v: of those frames.
          causal: whether each of them sees no later one.

        Returns:
          Keys and values `[B, H, F + m, S, D]`, and what these m frames see of them, `[m, F + m]` bool.
        """
        new = k.shape[2]
        own = jnp.ones((new, new), bool)
        held = jnp.broadcast_to(self.read()[2] >= 0, (new, self.capacity))
        seen = jnp.concatenate([held, jnp.tril(own) if causal else own], axis=1)
        return jnp.concatenate([self.k, k], axis=2), jnp.concatenate([self.v, v], axis=2), seen

    def policy(self, queries: int, *, causal: bool = False, window: int | None = None) -> Policy:
        """What the newest `queries` frames see of the cache that they have been appended to.

        Args:
          queries: frames whose tokens ask.
          causal: whether each of them sees no later one; else they see each other, as frames of one chunk.
          window: frames seen, up to and with the own one; None: all that are held.

        Returns:
          A policy for keys in the order of the slots: a key mask where all queries see the same, else a dense mask.

        Raises:
          ValueError: more queries than slots.
        """
        b, _, _, tokens, _ = self.k.shape
        seen = self.seen(queries, causal=causal, window=window)
        if queries == 1 or (window is None and not causal):
            return Policy(key_mask=jnp.broadcast_to(jnp.repeat(seen[0], tokens), (b, self.capacity * tokens)))
        return Policy(mask=jnp.repeat(jnp.repeat(seen, tokens, 0), tokens, 1)[None, None])

    def _placed(self) -> "KVCache":
        k, v = (constrain(x, *CUTS[self.over]) for x in (self.k, self.v))
        return dataclasses.replace(self, k=k, v=v)
