"""Prompts encoded in batches, once: what a frozen encoder makes of a prompt is kept in a folder and read from there.

    encoder = PromptEncoder(component.network(), tokenizer, WAN, encoder_digest(component.params))
    encoder.encode(prompts, folder="data/clips/prompts")          # {"tokens": [N, L, D], "tokens_mask": [N, L], ...}

A file is named by what decides its content: weights, tokenizer, length, way of reading, dtype, and the prompt.  It
appears whole or not at all, so any number of processes may share a folder.
"""

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from vdm_jax.errors import RunError
from vdm_jax.interop.files.tensors import SUFFIX, TensorWriter, read_header
from vdm_jax.models import prompt_cleaning
from vdm_jax.models.published_tokenizer import check_match
from vdm_jax.models.tokenizer import Tokenizer
from vdm_jax.sharding import LogicalRules, activation_sharding, replicated

Encoded = dict[str, np.ndarray]
_STEM = "prompt"


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a published pipeline reads its encoder.

    Attributes:
      clean: what is done to a prompt first.
      masked: whether the encoder is told what is padding.
      zeroed: whether the features of padding are then made zero.
      skip: blocks at the end that are left out (`clip_skip`); the final norm is still taken.
    """

    clean: Callable[[str], str] = prompt_cleaning.as_it_is
    masked: bool = False
    zeroed: bool = False
    skip: int = 0

    @property
    def name(self) -> str:
        """All of it in one line, as a part of the name of what is kept."""
        return f"{self.clean.__name__} masked={self.masked} zeroed={self.zeroed} skip={self.skip}"


PLAIN = Reading()  # Stable Diffusion, AnimateDiff, ModelScope, CogVideoX
WAN = Reading(prompt_cleaning.wan, masked=True, zeroed=True)
LATTE = Reading(prompt_cleaning.latte, masked=True)


def encoder_digest(params: Any) -> str:
    """SHA-256 of the names, dtypes and values of weights (nested dict of arrays)."""
    sha = hashlib.sha256()
    for path, leaf in sorted(flatten_dict(params).items()):
        host = np.ascontiguousarray(jax.device_get(leaf))
        sha.update(f"{'.'.join(map(str, path))} {host.dtype} {host.shape}".encode())
        sha.update(host.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


class PromptEncoder:
    """A frozen encoder with its tokenizer.

    Args:
      network: `CLIPText` or `T5`, with its weights.
      tokenizer: of that encoder.
      reading: how it is read.
      digest: of the weights, see `encoder_digest`.
      dtype: of the computation and of what is kept.
      batch: prompts encoded at once; the last batch is filled up, so one program is compiled.
      mesh: where the weights are; None is one device.

    Raises:
      ValueError: the tokenizer is that of another encoder.
    """

    def __init__(
        self,
        network: nnx.Module,
        tokenizer: Tokenizer,
        reading: Reading,
        digest: str,
        *,
        dtype: np.dtype = np.float32,
        batch: int = 16,
        mesh: Mesh | None = None,
    ):
        check_match(tokenizer, network.config)
        if batch < 1:
            raise ValueError(f"batch: {batch} must be 1 or more")
        self.tokenizer, self.reading = tokenizer, reading
        self.cut: dict[str, str] = {}  # prompt -> the end of it that was over the length limit
        self._digest, self._dtype, self._batch = digest, np.dtype(dtype), batch
        graph, self._params = nnx.split(network)

        def run(params, text_ids, text_mask):
            return _read(nnx.merge(graph, params), text_ids, text_mask, reading, self._dtype)

        def on_mesh(*arguments):
            with activation_sharding(mesh, LogicalRules()):
                return run(*arguments)

        self._run = jax.jit(run) if mesh is None else jax.jit(on_mesh, out_shardings=replicated(mesh))

    def encode(self, prompts: Sequence[str], folder: str | os.PathLike | None = None) -> Encoded:
        """Encodes prompts; each different one once.

        Args:
          prompts: at least one.
          folder: where results are kept and looked for; None keeps nothing.

        Returns:
          `tokens [N, L, D]` and, with CLIP, `pooled [N, D]` and `projected [N, P]` if it has a projection, in
          `dtype`; `tokens_mask [N, L]` bool, True up to the end token.  What was cut off is in `cut`.

        Raises:
          ValueError: no prompts.
          RunError: a kept result is damaged, or one cannot be written.
        """
        if not prompts:
            raise ValueError("prompts: none given")
        clean = {prompt: self.reading.clean(prompt) for prompt in prompts}
        different = list(dict.fromkeys(clean.values()))
        left = dict(zip(different, self.tokenizer.left_out(different)))
        self.cut |= {prompt: left[text] for prompt, text in clean.items() if left[text]}
        found = {} if folder is None else self._kept(different, Path(folder))
        for start in range(0, len(missing := [text for text in different if text not in found]), self._batch):
            for text, encoded in self._encode(missing[start : start + self._batch]):
                found[text] = encoded
                if folder is not None:
                    _keep(self._file(Path(folder), text), encoded)
        rows = [found[clean[prompt]] for prompt in prompts]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _encode(self, texts: list[str]) -> Iterable[tuple[str, Encoded]]:
        """At most one batch."""
        made = self.tokenizer.encode([*texts, *[""] * (self._batch - len(texts))])
        out = jax.device_get(self._run(self._params, made["text_ids"], made["text_mask"]))
        for row, text in enumerate(texts):
            yield text, {"tokens_mask": made["text_mask"][row], **{name: value[row] for name, value in out.items()}}

    def _file(self, folder: Path, text: str) -> Path:
        parts = (self._digest, self.tokenizer.digest, self.reading.name, self._dtype.name, text)
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        return folder / key[:2] / f"{key}{SUFFIX}"

    def _kept(self, texts: Sequence[str], folder: Path) -> dict[str, Encoded]:
        files = {text: self._file(folder, text) for text in texts}
        return {
            text: {name: stored.read() for name, stored in read_header(file).items()}
            for text, file in files.items()
            if file.is_file()
        }


def _read(network: nnx.Module, text_ids: jax.Array, text_mask: jax.Array, reading: Reading, dtype) -> dict:
    mask = text_mask if reading.masked else None
    out = network(text_ids, mask, skip=reading.skip, dtype=dtype)
    tokens = network.norm(out.hidden) if reading.skip else out.tokens
    if reading.zeroed:
        tokens = jnp.where(text_mask[..., None], tokens, 0)
    found = {"tokens": tokens, "pooled": out.pooled, "projected": out.projected}
    return {name: value.astype(dtype) for name, value in found.items() if value is not None}


def _keep(file: Path, encoded: Encoded) -> None:
    """Writes beside its place, then moves it there."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=file.parent))
        try:
            writer = TensorWriter(partial, _STEM, {name: (x.shape, x.dtype) for name, x in encoded.items()})
            for name, value in encoded.items():
                writer.put(name, value)
            writer.close()
            (partial / f"{_STEM}{SUFFIX}").replace(file)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise RunError(f"{file}: cannot be written: {error.strerror or error}") from None
