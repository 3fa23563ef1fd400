"""A page on which a person says, pair by pair, which of two clips is better, without knowing whose they are.

Which pair comes when, and who is left and who right, is drawn from a seed.  The answers stay in the page (and in the
browser, so that one can go on later) until they are saved as a CSV of `first, second, winner`.
"""

import dataclasses
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import numpy as np

from vdm_jax.errors import RunError
from vdm_jax.media.page import clip_media


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two clips of one prompt; `left` and `right` name who made them and `number` the prompt."""

    number: int
    left: str
    right: str


def drawn_pairs(couples: Sequence[tuple[str, str]], prompts: int, seed: int = 0) -> list[Pair]:
    """All couples for each of so many prompts, in random order, sides drawn too."""
    rng = np.random.default_rng(seed)
    pairs = [(k, *both) for k in range(prompts) for both in couples]
    turned = rng.random(len(pairs)) < 0.5
    made = [Pair(k, b, a) if turn else Pair(k, a, b) for (k, a, b), turn in zip(pairs, turned)]
    return [made[i] for i in rng.permutation(len(made))]


def write_pairs_page(
    path: str | os.PathLike,
    clips: Mapping[str, Sequence[np.ndarray]],
    prompts: Sequence[str],
    fps: float,
    couples: Sequence[tuple[str, str]] | None = None,
    title: str = "Which is better?",
    seed: int = 0,
) -> list[Pair]:
    """Writes the page, whole or not at all.

    Args:
      path: the file.
      clips: name -> one clip for each prompt, uint8 [T, H, W, 3].
      prompts: what they show; "" where nobody said.
      fps: frames per second.
      couples: names to compare; every two unless given.
      title: of the page.
      seed: of the order.

    Returns:
      The pairs in the order in which they are shown.

    Raises:
      ValueError: fewer than two names, or another number of clips than prompts.
      RunError: the place cannot be written.
    """
    if len(clips) < 2 or any(len(made) != len(prompts) for made in clips.values()):
        raise ValueError(f"clips: of {len(clips)} names; two at least, each with a clip for {len(prompts)} prompts")
    names = sorted(clips)
    couples = list(itertools.combinations(names, 2)) if couples is None else couples
    pairs = drawn_pairs(couples, len(prompts), seed)
    places = {name: i for i, name in enumerate(names)}
    shown = {"names": names, "prompts": list(prompts)}
    shown["pairs"] = [[pair.number, places[pair.left], places[pair.right]] for pair in pairs]
    shown["clips"] = [[_source(clip, fps) for clip in clips[name]] for name in names]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    data = json.dumps(shown, ensure_ascii=True).replace("<", "\\u003c")  # a caption must not end the script
    text = environment.get_template("pairs.html.j2").render(title=title, data=data)
    path = Path(path)
    partial = path.with_name(f".{path.name}.part")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RunError(f"page: cannot write {path}: {error.strerror}") from None
    return pairs


def _source(clip: np.ndarray, fps: float) -> str:
    media = clip_media(clip, fps)
    return media.get("mp4") or media["gif"]
