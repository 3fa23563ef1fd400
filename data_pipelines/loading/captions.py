"""What a clip is called: one of its captions, and the caption of its mirror image.

A clip may have several captions, `labels["captions"] = [[text, probability], ...]`, of which one is drawn; without
them it has the one of its record.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines.loading.settings import DataConfig
from data_pipelines.shards.reader import ClipSource
from vdm_jax.errors import RunError

_SWAPPED = {"left": "right", "clockwise": "counterclockwise"}
_SWAPPED |= {"links": "rechts", "linke": "rechte", "linken": "rechten", "linker": "rechter", "linkes": "rechtes"}
_SWAPPED |= {"linkem": "rechtem"}
_SWAPPED |= {b: a for a, b in _SWAPPED.items()} | {"anticlockwise": "clockwise"}
_ENDINGS = "most|ward|wards|hand|handed|handedly|hander|er|ern|side|sided|wing|winger|ist|ists"
_WORD = re.compile(
    rf"(?<!\w)(?P<stem>{'|'.join(sorted(_SWAPPED, key=len, reverse=True))})(?P<end>-?(?:{_ENDINGS}))?(?!\w)",
    re.IGNORECASE,
)
# `left` of leaving and `right` of being so are no directions, unless the word before says so.
_DIRECTED = re.compile(r"\b(?:the|to|on|at|from|far|bottom|top|upper|lower|up|down|turns?|moves?)\s+$", re.IGNORECASE)
_STAYS = {
    "left": re.compile(r"\s+(?:the|an?|his|her|its|their|my|your|our|this|that|behind|alone|over)\b", re.IGNORECASE),
    "right": re.compile(r"(?:\s+(?:away|now|after|before|angle|angled|angles)\b|-angled?\b)", re.IGNORECASE),
}
_ALL = re.compile(r"\b(?:all|that's|exactly)\s+$", re.IGNORECASE)


def mirrored(text: str) -> str:
    """The caption of a clip of which left and right are exchanged.

    Whole words are exchanged, in English and German, with their endings (`leftmost`, `right-handed`, `linken`), and
    so are clockwise and counterclockwise; the case of a word is kept.  `left the room`, `right away` and `all right`
    stay.
    """

    def exchange(match: re.Match) -> str:
        word, before, after = match["stem"], text[: match.start()], text[match.end() :]
        lower = word.lower()
        stays = lower in _STAYS and (_STAYS[lower].match(after) or (lower == "right" and _ALL.search(before)))
        if stays and not match["end"] and not _DIRECTED.search(before):
            return match[0]
        return _cased(_SWAPPED[lower], word) + (match["end"] or "")

    return _WORD.sub(exchange, text)


def _cased(word: str, like: str) -> str:
    if like.isupper():
        return word.upper()
    return word.capitalize() if like[0].isupper() else word


def no_text(captions: list[str]) -> dict[str, np.ndarray]:
    """The tokenizer of an unconditional model, which is given no captions, whatever the set holds."""
    return {}


def training_texts(config: DataConfig) -> Iterator[str]:
    """Every caption that training may see: of all sets, all of a clip, and mirrored where clips are; for a tokenizer.

    Raises:
      ValueError, RunError: as `ClipSource` with the policy `raise`.
    """
    for shards in config.training_sets:
        source = ClipSource(shards, "train")
        for index in range(len(source)):
            record = source.record(index)
            for text in _all(record.caption, record.labels):
                yield text
                if config.flip and (other := mirrored(text)) != text:
                    yield other


def _all(caption: str, labels: str) -> Sequence[str]:
    choices = json.loads(labels).get("captions") if '"captions"' in labels else None
    return [caption] if choices is None else _checked(choices)[0]


def drawn(caption: str, labels: str, draw: float) -> str:
    """One caption of a clip.

    Args:
      caption: that of the record.
      labels: JSON text, see the top of this file.
      draw: in [0, 1).

    Raises:
      RunError: the captions of the labels are no list of texts and probabilities.
    """
    if '"captions"' not in labels:
        return caption
    choices = json.loads(labels).get("captions")
    if choices is None:
        return caption
    texts, weights = _checked(choices)
    left = draw * math.fsum(weights)
    for text, weight in zip(texts, weights):
        if left < weight:
            return text
        left -= weight
    return [text for text, weight in zip(texts, weights) if weight][-1]  # rounding


def _checked(choices: object) -> tuple[Sequence[str], Sequence[float]]:
    try:
        texts, weights = zip(*choices)
        wrong = [t for t in texts if not isinstance(t, str)]
        wrong += [w for w in weights if isinstance(w, bool) or not 0 <= float(w) < math.inf]
        if not wrong and math.fsum(weights) > 0:
            return texts, weights
    except (TypeError, ValueError):
        pass
    raise RunError(f"captions: {str(choices)[:80]!r} is no list of [text, probability]")
