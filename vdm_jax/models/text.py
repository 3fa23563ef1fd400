"""A small text encoder that is trained with the backbone, and its tokenizer.

Encoders of any size keep to one protocol: a `Tokenizer` turns prompts into `text_ids [B, L]` and
`text_mask [B, L]` on the host, and the network turns those into the condition `tokens [B, L, D]` and
`tokens_mask [B, L]`.  The unconditional prompt is the empty string: a start and an end token.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from flax import nnx

from vdm_jax.attention import Policy
from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.nn.attention import SelfAttention
from vdm_jax.nn.linear import param
from vdm_jax.nn.mlp import MLP
from vdm_jax.nn.norms import LayerNorm
from vdm_jax.nn.stack import run_stack, stack
from vdm_jax.sharding.rules import constrain

Array = jax.Array
_SPECIAL = ("<pad>", "<start>", "<end>")
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


class Tokenizer:
    """Prompts to fixed-length token ids; wraps a `tokenizers.Tokenizer` and its length."""

    def __init__(self, inner: tokenizers.Tokenizer, length: int):
        self.length = length
        self.cut = 0  # prompts that were longer than `length`
        self._inner = inner

    @classmethod
    def train(cls, captions: Iterable[str], config: TextConfig) -> "Tokenizer":
        """Learns subwords from captions (`bpe`), or takes the 256 bytes as they are (`bytes`)."""
        inner = tokenizers.Tokenizer(tokenizers.models.BPE())
        inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
        inner.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=config.vocab_size if config.tokenizer == "bpe" else 0,
            special_tokens=list(_SPECIAL),
            initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        inner.train_from_iterator(captions if config.tokenizer == "bpe" else (), trainer)
        start, end = (inner.token_to_id(name) for name in _SPECIAL[1:])
        inner.post_processor = tokenizers.processors.TemplateProcessing(
            single="<start> $A <end>", special_tokens=[("<start>", start), ("<end>", end)]
        )
        return cls(inner, config.length)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Reads what `save` wrote.  Raises RunError if it cannot be read."""
        try:
            held = json.loads(Path(path).read_text("utf-8"))
            return cls(tokenizers.Tokenizer.from_str(json.dumps(held["tokenizer"])), held["length"])
        except Exception as error:  # the library raises bare Exceptions
            raise RunError(f"{path}: not a tokenizer that can be read ({error})") from None

    def save(self, path: str | Path) -> None:
        """Writes one JSON file."""
        held = {"length": self.length, "tokenizer": json.loads(self._inner.to_str())}
        Path(path).write_text(json.dumps(held, ensure_ascii=False), "utf-8")

    @property
    def vocab_size(self) -> int:
        return self._inner.get_vocab_size()

    def encode(self, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """`{"text_ids": int32 [B, L], "text_mask": bool [B, L]}`; prompts beyond L tokens are cut and counted."""
        ids = np.zeros((len(prompts), self.length), np.int32)  # 0 is <pad>
        mask = np.zeros((len(prompts), self.length), bool)
        for row, encoded in enumerate(self._inner.encode_batch(list(prompts))):
            tokens = encoded.ids
            if len(tokens) > self.length:
                self.cut += 1
                tokens = [*tokens[: self.length - 1], tokens[-1]]
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = True
        return {"text_ids": ids, "text_mask": mask}


class _Block(nnx.Module):
    def __init__(self, cfg: TextConfig, *, rngs: nnx.Rngs):
        self.attention_norm = LayerNorm(cfg.dim, rngs=rngs)
        self.attention = SelfAttention(cfg.dim, cfg.heads, rngs=rngs)
        self.mlp_norm = LayerNorm(cfg.dim, rngs=rngs)
        self.mlp = MLP(cfg.dim, 4 * cfg.dim, activation="gelu", rngs=rngs)

    def __call__(self, x: Array, policy: Policy) -> Array:
        x = x + self.attention(self.attention_norm(x), policy)
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
