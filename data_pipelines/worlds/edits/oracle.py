"""Says what was done between the two clips of the world `edits`, real or generated.

All sprites of both are read (`sprites.several`).  One of them may have another colour, or another shape, or be gone, or
be new; the others must be where they were in every frame in which both show.
"""

from collections.abc import Mapping

import numpy as np

from data_pipelines.worlds.drawing import scatter
from data_pipelines.worlds.edits.world import Edit, EditsConfig, clip
from data_pipelines.worlds.sprites.several import Seen, read_sprites
from data_pipelines.worlds.sprites.world import Sprite
from data_pipelines.worlds.world import Example, pixels_of, right, wrong
from vdm_jax.media.figures import Figure

KEPT = 0.7  # pixels that a sprite which was left alone may be elsewhere after


def read_edit(before: np.ndarray, after: np.ndarray, config: EditsConfig) -> Edit | None:
    """What was done between two clips; None if nothing was, more than one thing, or something else also changed.

    Args:
      before, after: [T, H, W, 3], uint8, or float in [-1, 1].
      config: the world.

    Raises:
      ValueError: wrong shape or dtype.
    """
    world = scatter.sprites_config(config)
    old, new = (read_sprites(pixels_of(video[None])[0], world) for video in (before, after))
    gone, come = old.keys() - new.keys(), new.keys() - old.keys()
    kept = old.keys() & new.keys()
    reshaped = {colour for colour in kept if old[colour].shape != new[colour].shape}
    if not all(_same_way(old[colour], new[colour]) for colour in kept - reshaped) or len(reshaped) > 1:
        return None
    match len(gone), len(come), len(reshaped):
        case 1, 1, 0:
            (a,), (b,) = gone, come
            same = old[a].shape == new[b].shape and _same_way(old[a], new[b])
            return _edit("recolour", _sprite(a, old), _sprite(b, new)) if same else None
        case 0, 0, 1:
            (a,) = reshaped
            return _edit("reshape", _sprite(a, old), _sprite(a, new))
        case 1, 0, 0:
            return _edit("remove", _sprite(next(iter(gone)), old), None)
        case 0, 1, 0:
            return _edit("add", None, _sprite(next(iter(come)), new))
    return None


def check(config: EditsConfig, clips: int = 256, seed: int = 0) -> list[Figure]:
    """Reads real pairs, whose instruction must be read back, and corrupted ones.

    Corruptions: nothing done, the two clips exchanged, the clip after of another pair, one with frames in disorder.
    """
    made = [clip(config, i, seed) for i in range(clips)]
    pairs = [(e.fields["before"], e.video) for e in made]
    rng = np.random.default_rng([seed, 0xC0DE])
    corrupted = {
        "nothing_done": [(before, before) for before, _ in pairs],
        "exchanged": [(after, before) for before, after in pairs],
        "another_clip": [(before, pairs[i - 1][1]) for i, (before, _) in enumerate(pairs)],
        "shuffled": [(before, after[_disorder(rng, config.frames)]) for before, after in pairs],
    }
    if config.objects == 1 or config.frames < 4:
        del corrupted["shuffled"]  # a sprite that is gone, or a colour, does not depend on the order
    figures = [right("instruction", [_said(pair, e, config) for pair, e in zip(pairs, made)])]
    return figures + [wrong(n, [_said(p, e, config) for p, e in zip(bad, made)]) for n, bad in corrupted.items()]


def _disorder(rng: np.random.Generator, frames: int) -> np.ndarray:
    """An order of the frames that is far from theirs and from its reverse."""
    while True:
        order = rng.permutation(frames)
        if abs(np.corrcoef(order, np.arange(frames))[0, 1]) < 0.5:
            return order


def _said(pair: tuple[np.ndarray, np.ndarray], example: Example, config: EditsConfig) -> bool:
    edit = read_edit(*pair, config)
    return edit is not None and edit.instruction == example.caption


def _same_way(a: Seen, b: Seen) -> bool:
    """Whether two sprites are at the same places wherever both are seen."""
    away = np.linalg.norm(a.track - b.track, axis=-1)
    return bool(np.isfinite(away).any() and np.nanmax(away) <= KEPT)


def _sprite(colour: str, seen: Mapping[str, Seen]) -> Sprite | None:
    it = seen[colour]
    return Sprite(colour, it.shape, it.direction) if it.shape and it.direction else None


def _edit(kind: str, old: Sprite | None, new: Sprite | None) -> Edit | None:
    """The edit, if what it speaks of was read."""
    needs = {"recolour": (old, new), "reshape": (old, new), "remove": (old,), "add": (new,)}[kind]
    return Edit(kind, old, new) if all(sprite is not None for sprite in needs) else None
