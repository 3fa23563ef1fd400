"""Prompts to token ids, on the host: the tokenizer of the small text encoder.

Apart from the network, so that training from ready-made tokens needs no `tokenizers` library.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers

from vdm_jax.errors import RunError
from vdm_jax.models.text import TextConfig

_SPECIAL = ("<pad>", "<start>", "<end>")


class Tokenizer:
    """Prompts to fixed-length token ids; wraps a `tokenizers.Tokenizer` and its length.

    Args:
      inner: puts an end token behind every prompt; neither pads nor cuts.
      length: tokens of a prompt, those that `inner` adds included.
      pad: id behind the end token.
    """

    def __init__(self, inner: tokenizers.Tokenizer, length: int, pad: int = 0):
        self.length = length
        self.pad = pad
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
            inner = tokenizers.Tokenizer.from_str(json.dumps(held["tokenizer"]))
            return cls(inner, held["length"], held.get("pad", 0))
        except Exception as error:  # the library raises bare Exceptions
            raise RunError(f"{path}: not a tokenizer that can be read ({error})") from None

    def save(self, path: str | Path) -> None:
        """Writes one JSON file."""
        held = {"length": self.length, "pad": self.pad, "tokenizer": json.loads(self._inner.to_str())}
        Path(path).write_text(json.dumps(held, ensure_ascii=False), "utf-8")

    @property
    def vocab_size(self) -> int:
        return self._inner.get_vocab_size()

    def encode(self, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """`{"text_ids": int32 [B, L], "text_mask": bool [B, L]}`; prompts beyond L tokens are cut and counted."""
        ids = np.full((len(prompts), self.length), self.pad, np.int32)
        mask = np.zeros((len(prompts), self.length), bool)
        for row, encoded in enumerate(self._inner.encode_batch(list(prompts))):
            tokens = encoded.ids
            if len(tokens) > self.length:
                self.cut += 1
                tokens = [*tokens[: self.length - 1], tokens[-1]]
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = True
        return {"text_ids": ids, "text_mask": mask}

    def left_out(self, prompts: Sequence[str]) -> list[str]:
        """The end of each prompt that `encode` cuts off; "" where it fits."""
        encoded = self._inner.encode_batch(list(prompts))
        return [
            text[found.offsets[self.length - 2][1] :] if len(found.ids) > self.length else ""
            for text, found in zip(prompts, encoded)
        ]

    @property
    def end(self) -> int:
        """The id that stands behind every prompt."""
        return self._inner.encode("").ids[-1]

    @property
    def ids(self) -> int:
        """One more than the largest id that may come out."""
        return max(max(self._inner.get_vocab().values()), self.pad) + 1

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides what comes out."""
        return hashlib.sha256(f"{self.length} {self.pad} {self._inner.to_str()}".encode()).hexdigest()
