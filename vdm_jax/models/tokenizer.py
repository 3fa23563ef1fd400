"""Prompts to token ids, on the host: the tokenizer of the small text encoder.

Apart from the network, so that training from ready-made tokens needs no `tokenizers` library.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers

from vdm_jax.errors import RunError
from vdm_jax.models.text import TextConfig

_SPECIAL = ("<pad>", "<start>", "<end>")


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
