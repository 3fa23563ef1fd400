"""What a clip shows, in words: from files beside the videos, from tables, or from a model.

A clip may have several captions, each with a probability: a loader draws one of them whenever it reads the clip.
In a record of a shard set the most probable one is `caption`, and all of them are `labels["captions"]`,
`[[text, probability], ...]`, where there is more than one.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from vdm_jax.errors import RunError

SUM_TOLERANCE = 1e-3  # probabilities that people write are rounded


@dataclasses.dataclass(frozen=True)
class Caption:
    """One way to say what a clip shows.

    Attributes:
      text: a sentence, or several; white space is collapsed.
      probability: with which a loader shall draw it, within (0, 1].
      origin: where it comes from: `sidecar`, `table`, or the name and version of a captioner.
    """

    text: str
    probability: float = 1.0
    origin: str = "sidecar"

    def __post_init__(self):
        object.__setattr__(self, "text", " ".join(self.text.split()))
        if not self.text:
            raise ValueError("caption: is empty")
        number = isinstance(self.probability, (int, float)) and not isinstance(self.probability, bool)
        if not number or not 0 < self.probability <= 1:
            raise ValueError(f"caption {self.text!r}: probability {self.probability!r} is not within (0, 1]")


class Captioner(Protocol):
    """A model that says what a clip shows.

    Attributes:
      name, version: what wrote a caption; part of the fingerprint of a curation run.
    """

    name: str
    version: str

    def caption(self, sample: Any) -> Sequence[tuple[str, float]]:
        """Captions of a `scores.Sample` with probabilities that add up to one; none where it has nothing to say."""


def ask(captioner: Captioner, sample: Any) -> tuple[Caption, ...]:
    """What a captioner says of a clip, checked.

    Raises:
      RunError: an empty caption, or probabilities that do not add up to one; names the captioner.
    """
    origin = f"{captioner.name} {captioner.version}"
    try:
        return checked([Caption(text, float(share), origin) for text, share in captioner.caption(sample)])
    except ValueError as error:
        raise RunError(f"captioner {origin}: {error}") from None


def checked(captions: Iterable[Caption]) -> tuple[Caption, ...]:
    """Captions whose probabilities add up to one, exactly so.

    Raises:
      ValueError: they do not, or one text stands there twice.
    """
    captions = tuple(captions)
    texts = [caption.text for caption in captions]
    if len(set(texts)) != len(texts):
        raise ValueError(f"captions: {next(text for text in texts if texts.count(text) > 1)!r} is there twice")
    total = math.fsum(caption.probability for caption in captions)
    if captions and abs(total - 1) > SUM_TOLERANCE:
        raise ValueError(f"captions: probabilities add up to {total:g}, not to 1")
    return tuple(dataclasses.replace(c, probability=c.probability / total) for c in captions)


def blend(parts: Sequence[tuple[Iterable[Caption], float]]) -> tuple[Caption, ...]:
    """Captions of several origins as one set: those of each keep their proportions, and get that share together.

    Args:
      parts: (captions of one origin, weight); an origin without captions leaves its share to the others.  A text
        that two origins have counts for the first, with the shares of both.

    Raises:
      ValueError: a weight that is not positive.
    """
    for _, weight in parts:
        if not 0 < weight < math.inf:
            raise ValueError(f"weight: {weight!r} of captions is not positive")
    there = [(captions, weight) for captions, weight in ((tuple(c), w) for c, w in parts) if captions]
    whole = math.fsum(weight for _, weight in there)
    found: dict[str, Caption] = {}
    for captions, weight in there:
        for caption in captions:
            share = caption.probability * weight / whole
            before = found.get(caption.text)
            added = min(1.0, share + before.probability) if before else share
            found[caption.text] = dataclasses.replace(before or caption, probability=added)
    return tuple(found.values())


def main_caption(captions: Sequence[Caption]) -> str:
    """The text of the most probable caption, the first of equals; "" where there is none."""
    return max(captions, key=lambda caption: caption.probability).text if captions else ""


def caption_labels(captions: Sequence[Caption]) -> dict[str, list[list[Any]]]:
    """What the labels of a record say of its captions: nothing where `caption` says all."""
    return {"captions": [[c.text, c.probability] for c in captions]} if len(captions) > 1 else {}
