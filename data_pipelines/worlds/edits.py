"""The world `edits`: a clip, an instruction, and the clip after it was followed, which differs in nothing else.

    recolour   make the red square blue               remove   remove the red square
    reshape    turn the red square into a circle      add      add a blue circle that moves left

`video` is the clip after, the field `before` the one before, `changed` where they differ, and masks, flow and tracks
are those after.  The oracle `read_edit` says what was done from the two clips.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from data_pipelines.worlds import layers, scatter
from data_pipelines.worlds.scatter import Seen, read_sprites
from data_pipelines.worlds.sprites import COLOURS, Sprite, SpritesConfig
from data_pipelines.worlds.world import Example, check_size, check_words, generator, pixels_of, right, wrong
from vdm_jax.media.figures import Figure

KINDS = ("recolour", "reshape", "remove", "add")
SHAPES = ("square", "circle", "triangle", "cross")
KEPT = 0.7  # pixels that a sprite which was left alone may be elsewhere after


@dataclasses.dataclass(frozen=True)
class EditsConfig:
    """What the clips look like.

    Attributes:
      height, width: pixels, 16 to 128.
      frames: frames of a clip, 2 to 128.
      fps: frames per second written beside the clips; it changes no pixel.
      objects: sprites before the edit, 1 to 3, each of a colour of its own.
      kinds: the edits in use.
      size: smallest and largest extent of a sprite, a fraction of the shorter side.
    """

    height: int = 32
    width: int = 32
    frames: int = 8
    fps: float = 8.0
    objects: int = 2
    kinds: tuple[str, ...] = KINDS
    size: tuple[float, float] = (0.26, 0.32)

    def __post_init__(self):
        check_size(self)
        check_words("kinds", self.kinds, KINDS)
        scatter.check_room(self)
        self.sprites()

    def sprites(self) -> SpritesConfig:
        """The world of the sprites."""
        names = ("height", "width", "frames", "fps", "size")
        colours = tuple(name for name in COLOURS if name != "orange")
        return SpritesConfig(**{name: getattr(self, name) for name in names}, shapes=SHAPES, colours=colours)


@dataclasses.dataclass(frozen=True)
class Edit:
    """What is done: the sprite that it is done to (None to add), and what is there then (None to remove)."""

    kind: str
    old: Sprite | None
    new: Sprite | None

    @property
    def instruction(self) -> str:
        """In words."""
        match self.kind:
            case "recolour":
                return f"make the {self.old.colour} {self.old.shape} {self.new.colour}"
            case "reshape":
                return f"turn the {self.old.colour} {self.old.shape} into a {self.new.shape}"
            case "remove":
                return f"remove the {self.old.colour} {self.old.shape}"
        return f"add a {self.new.colour} {self.new.shape} that moves {self.new.direction}"


def clip(config: EditsConfig, index: int, seed: int = 0) -> Example:
    """Clip `index` of the endless, reproducible sequence of `seed`; kinds of edit cycle.

    Attributes: `kind`, `before` and `objects` (the sprites before and after), `object` (which of `before` it is done
    to, or of `objects` is new, from 1).
    """
    world, rng = config.sprites(), generator(seed, index)
    kind = config.kinds[index % len(config.kinds)]
    drawn = scatter.draw_attributes(rng, config.objects + 1, world)
    slot = int(rng.integers(config.objects)) if kind != "add" else config.objects
    others = [shape for shape in SHAPES if shape != drawn[slot].shape]
    old, new = drawn[slot], None
    if kind == "recolour":
        new = dataclasses.replace(old, colour=drawn[-1].colour)
    elif kind == "reshape":
        new = dataclasses.replace(old, shape=others[rng.integers(len(others))])
    elif kind == "add":
        old, new = None, drawn[-1]
    after: list[Sprite | None] = list(drawn[: config.objects]) + [None]
    before = list(after)
    before[slot], after[slot] = old, new
    ways = (seed, index, 1)
    number, _ = scatter.scatter(drawn[: config.objects + (kind == "add")], ways, world)
    videos, truth = [], {}
    for sprites in (before, after):
        shown = [scatter.place(s, n, number, ways, world) for n, s in enumerate(sprites) if s is not None]
        canvas = np.zeros((config.frames, config.height, config.width, 3), np.uint8)
        video, masks = layers.paint(canvas, shown)
        videos.append(video)
        truth = layers.truth(masks, shown)
    fields = {"before": videos[0], "changed": (videos[0] != videos[1]).any(-1), **truth}
    attributes = {
        "kind": kind,
        "before": [s.words() for s in before if s is not None],
        "objects": [s.words() for s in after if s is not None],
        "object": slot + 1,
    }
    return Example(videos[1], Edit(kind, old, new).instruction, attributes, fields)


def read_edit(before: np.ndarray, after: np.ndarray, config: EditsConfig) -> Edit | None:
    """What was done between two clips; None if nothing was, more than one thing, or something else also changed.

    Args:
      before, after: [T, H, W, 3], uint8, or float in [-1, 1].
      config: the world.

    Raises:
      ValueError: wrong shape or dtype.
    """
    world = config.sprites()
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
