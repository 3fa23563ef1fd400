"""The world `edits`: a clip, an instruction, and the clip after it was followed, which differs in nothing else.

    recolour   make the red square blue               remove   remove the red square
    reshape    turn the red square into a circle      add      add a blue circle that moves left

`video` is the clip after, the field `before` the one before, `changed` where they differ, and masks, flow and tracks
are those after.  What was done is read off the two clips by `oracle`.
"""

import dataclasses

import numpy as np

from data_pipelines.worlds.drawing import layers, scatter
from data_pipelines.worlds.sprites.world import Sprite
from data_pipelines.worlds.world import Example, check_size, check_words, generator

KINDS = ("recolour", "reshape", "remove", "add")


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
    world, rng = scatter.sprites_config(config), generator(seed, index)
    kind = config.kinds[index % len(config.kinds)]
    drawn = scatter.draw_attributes(rng, config.objects + 1, world)
    slot = int(rng.integers(config.objects)) if kind != "add" else config.objects
    others = [shape for shape in world.shapes if shape != drawn[slot].shape]
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
