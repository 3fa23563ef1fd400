"""A small text encoder that is trained with the backbone.

Encoders of any size keep to one protocol: a `Tokenizer` (`tokenizer.py`) turns prompts into `text_ids [B, L]` and
`text_mask [B, L]` on the host, and the network turns those into the condition `tokens [B, L, D]` and
`tokens_mask [B, L]`.  The unconditional prompt is the empty string: a start and an end token.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.attention import Policy
from vdm_jax.errors import did_you_mean
from vdm_jax.nn.attention import SelfAttention
from vdm_jax.nn.linear import param
from vdm_jax.nn.mlp import MLP
from vdm_jax.nn.norms import LayerNorm
from vdm_jax.nn.stack import run_stack, stack
from vdm_jax.sharding.rules import constrain

Array = jax.Array
KINDS = ("bpe", "bytes")


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The small text encoder and its tokenizer.

    Attributes:
      tokenizer: `bpe` (subwords learned from the training captions) or `bytes` (nothing to learn).
      vocab_size: most tokens a `bpe` tokenizer may have.
      length: tokens of a prompt, start and end included; longer prompts are cut, and the cut is counted.
      dim, depth, heads: of the encoder.
    """

    tokenizer: str = "bpe"
    vocab_size: int = 1024
    length: int = 32
    dim: int = 128
    depth: int = 1
    heads: int = 4

    def __post_init__(self):
        if self.tokenizer not in KINDS:
            raise ValueError(f"tokenizer: {did_you_mean(self.tokenizer, KINDS)}")
        for name in ("dim", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be 1 or more")
        if self.length < 2:
            raise ValueError(f"length: {self.length} leaves no room for the start and end token")
        if self.dim % self.heads:
            raise ValueError(f"heads: {self.heads} must divide dim={self.dim}")


class _Block(nnx.Module):
    def __init__(self, cfg: TextConfig, *, rngs: nnx.Rngs):
        self.attention_norm = LayerNorm(cfg.dim, rngs=rngs)
        self.attention = SelfAttention(cfg.dim, cfg.heads, rngs=rngs)
        self.mlp_norm = LayerNorm(cfg.dim, rngs=rngs)
        self.mlp = MLP(cfg.dim, 4 * cfg.dim, activation="gelu", rngs=rngs)

    def __call__(self, x: Array, policy: Policy) -> Array:
        x = x + self.attention(self.attention_norm(x), policy, partition="local")  # prompts are short, and not cut
        return x + self.mlp(self.mlp_norm(x))


class TextEncoder(nnx.Module):
    """A pre-norm transformer over tokens; see the protocol on top.

    Args:
      config: sizes.
      vocab_size: of the tokenizer in use.
      rngs: `params` is used.
    """

    def __init__(self, config: TextConfig, vocab_size: int, rngs: nnx.Rngs):
        self.config = config
        normal = jax.nn.initializers.normal(0.02)
        self.tokens = param(rngs, normal, (vocab_size, config.dim), ("vocab", "embed"))
        self.positions = param(rngs, normal, (config.length, config.dim), ("text", "embed"))
        self.blocks = stack(lambda r: _Block(config, rngs=r), config.depth, rngs)
        self.norm = LayerNorm(config.dim, rngs=rngs)

    def __call__(self, text_ids: Array, text_mask: Array, dtype: jnp.dtype = jnp.float32) -> dict[str, Array]:
        """`text_ids int32 [B, L]`, `text_mask bool [B, L]` -> the condition's `tokens [B, L, D]`, `tokens_mask`."""
        x = jnp.take(self.tokens[...].astype(dtype), text_ids, axis=0)
        x = x + self.positions[...].astype(dtype)[: x.shape[1]]
        x = constrain(x, "batch", None, None)
        policy = Policy(key_mask=text_mask)
        x = run_stack(self.blocks, x, lambda block, h: block(h, policy))
        return {"tokens": self.norm(x), "tokens_mask": text_mask}


class EmptyPrompt(nnx.Module):
    """The features of the empty prompt, where those of all others come with the data; held, never trained.

    So whoever has the weights can guide by them.  They are zero until the data says what they are.

    Args:
      length, dim: L and D.
    """

    def __init__(self, length: int, dim: int):
        self.tokens = nnx.Variable(jnp.zeros((length, dim)))
        self.mask = nnx.Variable(jnp.zeros(length, bool))

    def __call__(self, dtype: jnp.dtype = jnp.float32) -> dict[str, Array]:
        """`tokens [1, L, D]` and `tokens_mask [1, L]` of a condition."""
        return {"tokens": self.tokens[...].astype(dtype)[None], "tokens_mask": self.mask[...][None]}
