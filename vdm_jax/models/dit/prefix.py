"""What a network that continues videos has beside its blocks: attention to the prefix in space, and a memory.

Prefix-enhanced spatial attention (Ca2-VDM 2411.16375, ViD-GPT 2406.10981).  A frame that is not given reads, beside its
own tokens, those of the last P' given frames; a given frame reads its own once more, so that what is kept of it depends
on no other frame.  With P given frames in front, frame f has the keys of

    f >= P    frames max(P - P' + j, 0), j = 0 .. P' - 1            f < P    frame f

(of a shorter prefix the first frame stands several times).  The projection out starts at zero.

The memory holds keys and values of given frames, for each block: in time those of the newest F frames, in space those
of the newest P'.  They depend on neither the noisy frames nor the step of the sampler, as all of them are told time 0
and attention in time is causal; so they are computed once, and read by every step of every chunk.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vdm_jax.attention import KVCache, Policy, attend
from vdm_jax.models.dit.config import DiTConfig
from vdm_jax.nn.attention import CrossAttention

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """Keys and values of given frames; of all blocks with a leading `layers` dim, or of one block.

    Attributes:
      time: of `[B, H, F, S, c]`, read along time.
      space: of `[B, H, P', S, c]`, read by frames that follow; None where the model does not.
    """

    time: KVCache
    space: KVCache | None

    @classmethod
    def empty(cls, config: DiTConfig, batch: int, tokens: int, frames: int, dtype=jnp.float32) -> "Memory":
        """Room for `frames` frames of `tokens` tokens each, for every block.

        Raises:
          ValueError: a model whose given frames depend on others, or on time.
        """
        if config.attention != "factorised" or config.temporal != "block" or not config.causal:
            raise ValueError(
                "memory: frames are kept with attention='factorised', temporal='block' and causal=True, not with"
                f" {config.attention!r}, {config.temporal!r} and {config.causal}"
            )
        if config.patch[0] != 1:
            raise ValueError(f"patch: {config.patch} joins {config.patch[0]} frames; to keep frames it must join none")
        if config.positions == "sincos":
            raise ValueError("positions: 'sincos' is a table of one clip; 'apart', 'learned' or rope can be continued")
        if config.positions in ("learned", "apart") and not 1 <= frames < config.grid[0]:
            raise ValueError(f"frames: {frames} kept frames leave no place in a table of {config.grid[0]} (grid[0])")
        sizes = {"tokens": tokens, "head_dim": config.head_dim, "dtype": dtype}

        def each(slots: int) -> KVCache:
            one = KVCache.empty(batch, config.heads, frames=slots, **sizes)
            return jax.tree.map(lambda x: jnp.broadcast_to(x, (config.depth, *x.shape)), one)

        return cls(each(frames), each(config.prefix) if config.prefix else None)

    @property
    def written(self) -> Array:
        """Frames that it has been given since it was empty, an int32 scalar; of the memory of all blocks."""
        return self.time.count[0]

    @property
    def capacity(self) -> int:
        """Frames that it holds."""
        return self.time.k.shape[-3]

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))

    def reset(self) -> "Memory":
        """Forgets all frames, for another video."""
        return Memory(self.time.reset(), None if self.space is None else self.space.reset())

    def check(self, batch: int, heads: int, tokens: int, frames: int) -> None:
        """Refuses clips that are not those whose frames it holds.

        Raises:
          ValueError: another batch, other frames, or more than it can keep.
        """
        held = self.time.k.shape  # [layers, B, H, F, S, c]
        if batch != held[1]:
            raise ValueError(
                f"memory: holds {held[1]} rows, the clip has {batch}; frames are kept with the batch and the guidance"
                " (2 B rows) with which they are read"
            )
        if tokens != held[4] or heads != held[2]:
            raise ValueError(f"memory: holds frames of {held[4]} tokens, those of the clip have {tokens}")
        if frames > self.capacity:
            raise ValueError(f"memory: {frames} frames at once are more than the {self.capacity} that it holds")


class PrefixAttention(CrossAttention):
    """Attention of each frame to the last P' given ones, see the top of this file."""

    def __init__(self, cfg: DiTConfig, *, rngs):
        options = {"qk_norm": cfg.qk_norm, "kernel": cfg.kernel, "out_init": jax.nn.initializers.zeros}
        super().__init__(cfg.dim, cfg.heads, rngs=rngs, **options)
        self.frames = cfg.prefix

    def __call__(
        self, x: Array, given: Array, cache: KVCache | None = None, keep: bool = False
    ) -> tuple[Array, KVCache | None]:
        """Args:
          x: `[B, T, S, D]`.
          given: `[B, T]` bool, a prefix of the frames of each example.
          cache: of the newest P' given frames; None where the given frames are in `x`.
          keep: whether these frames are finished and go into the cache.

        Returns:
          An array like `x`, and the cache.
        """
        b, frames, _, _ = x.shape
        kv = self.kv(x)  # [B, T, S, H, 2, c]
        q, k = self.norm(self.q(x), kv[..., 0, :])
        v = kv[..., 1, :]
        if cache is None:
            source = jax.vmap(self._sources)(given)[:, :, :, None, None, None]  # [B, T, P', 1, 1, 1]
            k, v = (jnp.take_along_axis(y[:, None], source, axis=2) for y in (k, v))
            k, v = (y.reshape(b, frames, -1, *y.shape[-2:]) for y in (k, v))  # [B, T, P' S, H, c]
        elif keep:
            cache = cache.append(*(jnp.moveaxis(y, 3, 1) for y in (k, v)))
        else:
            k, v = (jnp.moveaxis(y, 1, 3) for y in cache.newest(self.frames))  # [B, P', S, H, c]
            k, v = (y.reshape(b, 1, -1, *y.shape[-2:]) for y in (k, v))  # the same for all frames
        out = attend(q, k, v, policy=Policy(), kernel=self.kernel, layout="BGNHD")
        return self.out(out.reshape(x.shape)), cache

    def _sources(self, given: Array) -> Array:
        """Of one example `[T]`: which frames each frame reads, `[T, P']`."""
        own = jnp.broadcast_to(jnp.arange(given.shape[0])[:, None], (given.shape[0], self.frames))
        last = jnp.maximum(given.sum() - self.frames + jnp.arange(self.frames), 0)
        return jnp.where(given[:, None] | ~given.any(), own, last)
