"""Says how much of a caption of the world `retrieval` is true of a clip, real or generated.

All sprites are read off the pixels (`sprites.several`), and what the caption says of each is counted.
"""

from collections.abc import Sequence

import numpy as np

from data_pipelines.worlds.drawing import scatter
from data_pipelines.worlds.retrieval.world import RetrievalConfig, clip, parse_caption
from data_pipelines.worlds.sprites.several import Seen, read_sprites
from data_pipelines.worlds.sprites.world import Sprite
from data_pipelines.worlds.world import Example, pixels_of, right, wrong
from vdm_jax.media.figures import Figure


def score(video: np.ndarray, text: str, config: RetrievalConfig) -> float:
    """How much of a caption is true of a clip: 1 for all of it, less for every word that is not.

    Args:
      video: [T, H, W, 3], uint8, or float in [-1, 1].
      text: a caption of this world.
      config: the world.

    Raises:
      ValueError: wrong shape or dtype, or no such caption.
    """
    return _score(read_sprites(pixels_of(video[None])[0], scatter.sprites_config(config)), parse_caption(text))


def check(config: RetrievalConfig, clips: int = 256, seed: int = 0) -> list[Figure]:
    """Scores real clips, whose caption must be wholly true and whose negatives must not, and corrupted ones.

    Corruptions: channels swapped, frames reversed, the next clip, noise.
    """
    made = [clip(config, i, seed) for i in range(clips)]
    world = scatter.sprites_config(config)

    def read(videos: Sequence[np.ndarray]) -> list[dict[str, Seen]]:
        return [read_sprites(pixels_of(video[None])[0], world) for video in videos]

    real = read([e.video for e in made])
    true = [_score(seen, parse_caption(e.caption)) for seen, e in zip(real, made)]
    figures = [right("caption", [value == 1 for value in true])]
    for kind in config.negatives:
        beaten = [
            _score(seen, parse_caption(e.attributes["negatives"][kind])) < value
            for seen, e, value in zip(real, made, true)
            if kind in e.attributes["negatives"]
        ]
        if beaten:
            figures.append(right(f"negative_{kind}", beaten))
    rng = np.random.default_rng([seed, 0xC0DE])
    corrupted = {
        "swapped_channels": [e.video[..., [1, 2, 0]] for e in made if _has_colour(e)],
        "reversed": [e.video[::-1] for e in made],
        "next_clip": [made[i - 1].video for i in range(clips)],
        "noise": [rng.integers(0, 256, e.video.shape, np.uint8) for e in made],
    }
    said = [parse_caption(e.caption) for e in made]
    coloured = [parse_caption(e.caption) for e in made if _has_colour(e)]
    for name, bad in corrupted.items():
        texts = coloured if name == "swapped_channels" else said
        figures.append(wrong(name, [_score(seen, text) == 1 for seen, text in zip(read(bad), texts)]))
    return figures


def _score(seen: dict[str, Seen], said: Sequence[Sprite]) -> float:
    """Share of the words that are true: colour, shape and direction of each sprite said, and each sprite not said."""
    true = 0
    for sprite in said:
        it = seen.get(sprite.colour)
        true += 0 if it is None else 1 + (it.shape == sprite.shape) + (it.direction == sprite.direction)
    unsaid = len(seen.keys() - {sprite.colour for sprite in said})
    return true / (3 * len(said) + unsaid) if said else 0.0


def _has_colour(example: Example) -> bool:
    return any(sprite["colour"] != "white" for sprite in example.attributes["objects"])
