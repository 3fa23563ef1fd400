"""Published tokenizer folders: `tokenizer.json`, or what came before it, with `tokenizer_config.json` beside it.

| files                          | of                                             |
| ------------------------------ | ---------------------------------------------- |
| `tokenizer.json`               | any, as it stands                              |
| `vocab.json`, `merges.txt`     | CLIP: lower-cased byte-level BPE, words `</w>` |
| `spiece.model`                 | T5: SentencePiece unigram and 100 `<extra_id>` |

CLIP pads with its end token (OpenCLIP with `!`), T5 with `<pad>`; which one is in `tokenizer_config.json`.
"""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from vdm_jax.errors import RunError
from vdm_jax.models.encoders import CLIPTextConfig, T5Config
from vdm_jax.models.encoders.clip import HIGHEST
from vdm_jax.models.sentencepiece_file import read_sentencepiece
from vdm_jax.models.tokenizer import Tokenizer

_CLIP_START, _CLIP_END = "<|startoftext|>", "<|endoftext|>"
_CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_T5_PAD, _T5_END, _T5_EXTRA = "<pad>", "</s>", 100
_NO_LIMIT = 10**6  # `model_max_length` of a tokenizer without one is 10 ** 30


def read_tokenizer(folder: str | Path, length: int | None = None) -> Tokenizer:
    """Reads a folder.

    Args:
      folder: of the files above.
      length: tokens that every prompt is cut or padded to; None is the folder's `model_max_length`.

    Raises:
      ValueError: no such folder or files, no pad token, a tokenizer that puts no end token behind prompts, no length.
      RunError: a file is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    said = _json(folder / "special_tokens_map.json") | _json(folder / "tokenizer_config.json")
    inner, defaults = _inner(folder)
    inner.no_padding()
    inner.no_truncation()
    pad = _token(folder, inner, said, "pad_token", defaults["pad_token"])
    end = _token(folder, inner, said, "eos_token", defaults["eos_token"])
    if inner.encode("").ids[-1:] != [end]:
        raise ValueError(f"{folder}: puts no eos_token {inner.id_to_token(end)!r} behind a prompt")
    if length is None:
        length = int(said.get("model_max_length", _NO_LIMIT))
        if length >= _NO_LIMIT:
            raise ValueError(f"{folder}: says no model_max_length; give a length")
    if length < 2:
        raise ValueError(f"length: {length} leaves no room for a prompt and its end token")
    return Tokenizer(inner, length, pad)


def check_match(tokenizer: Tokenizer, config: CLIPTextConfig | T5Config) -> None:
    """Refuses a tokenizer whose ids mean something else, or nothing, to an encoder.

    Raises:
      ValueError: more ids than the embedding has rows, longer prompts than there are positions, another end token.
    """
    if tokenizer.ids > config.vocab_size:
        raise ValueError(
            f"tokenizer: has ids up to {tokenizer.ids - 1}, the encoder's vocab_size is {config.vocab_size}"
        )
    if not isinstance(config, CLIPTextConfig):
        return
    if tokenizer.length > config.length:
        raise ValueError(
            f"tokenizer: prompts of {tokenizer.length} tokens, the encoder has positions for {config.length}"
        )
    wanted = tokenizer.ids - 1 if config.end == HIGHEST else config.end
    if tokenizer.end != wanted:
        raise ValueError(f"tokenizer: prompts end with id {tokenizer.end}, the encoder pools at id {wanted}")


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None


def _inner(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, str | None]]:
    """The tokenizer, and the special tokens that its class has where the folder says none."""
    try:
        if (folder / "tokenizer.json").is_file():
            return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")), {
                "pad_token": None,
                "eos_token": None,
            }
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return _clip(folder), {"pad_token": _CLIP_END, "eos_token": _CLIP_END}
        if (folder / "spiece.model").is_file():
            return _t5(folder), {"pad_token": _T5_PAD, "eos_token": _T5_END}
    except (ValueError, RunError):
        raise
    except Exception as error:  # the library raises bare Exceptions
        raise RunError(f"{folder}: not a tokenizer that can be read ({error})") from None
    raise ValueError(f"{folder}: holds no tokenizer.json, no vocab.json with merges.txt, and no spiece.model")


def _token(folder: Path, inner: tokenizers.Tokenizer, said: dict[str, Any], name: str, default: str | None) -> int:
    """Id of a special token."""
    token = said.get(name, default)
    token = token.get("content") if isinstance(token, dict) else token
    if token is None:
        raise ValueError(f"{folder}: names no {name} in tokenizer_config.json or special_tokens_map.json")
    if (found := inner.token_to_id(token)) is None:
        raise ValueError(f"{folder}: {name} {token!r} is not in its vocabulary")
    return found


def _clip(folder: Path) -> tokenizers.Tokenizer:
    files = (str(folder / "vocab.json"), str(folder / "merges.txt"))
    model = models.BPE.from_file(
        *files, continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=_CLIP_END, fuse_unk=False
    )
    inner = tokenizers.Tokenizer(model)
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    inner.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True)
    inner.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(token, normalized=True) for token in (_CLIP_START, _CLIP_END)])
    start, end = (inner.token_to_id(token) for token in (_CLIP_START, _CLIP_END))
    inner.post_processor = processors.RobertaProcessing(
        (_CLIP_END, end), (_CLIP_START, start), trim_offsets=False, add_prefix_space=False
    )
    return inner


def _t5(folder: Path) -> tokenizers.Tokenizer:
    model = read_sentencepiece(folder / "spiece.model")
    extra = [f"<extra_id_{i}>" for i in reversed(range(_T5_EXTRA))]
    pieces = model.pieces + [(token, 0.0) for token in extra]
    inner = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=model.unknown, byte_fallback=model.byte_fallback))
    if model.normalizer:
        inner.normalizer = normalizers.Precompiled(model.normalizer)
    spaces = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), spaces])
    inner.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    inner.add_special_tokens([AddedToken(token, normalized=False) for token in (*model.control, *reversed(extra))])
    end = inner.token_to_id(_T5_END)
    if end is None:
        raise ValueError(f"{folder}: eos_token {_T5_END!r} is not in its vocabulary")
    inner.post_processor = processors.TemplateProcessing(single=f"$A {_T5_END}", special_tokens=[(_T5_END, end)])
    return inner
