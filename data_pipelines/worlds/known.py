"""The table of worlds."""

from typing import Any

from data_pipelines.worlds import (
    bounce,
    bounce_oracle,
    degrade,
    degrade_oracle,
    digits,
    digits_oracle,
    edits,
    events,
    events_oracle,
    figure,
    figure_oracle,
    multiview,
    multiview_oracle,
    planes,
    planes_oracle,
    retrieval,
    scene_labels,
    scenes,
    scenes_oracle,
    sound,
    sound_oracle,
    sprites,
    sprites_oracle,
)
from data_pipelines.worlds.world import World

WORLDS: dict[str, World] = {
    world.name: world
    for world in (
        World(
            "sprites",
            "coloured shapes that move in straight lines; captions such as 'a red square moves left quickly'",
            sprites.SpritesConfig,
            sprites.clip,
            sprites_oracle.check,
            sprites.hold_out,
        ),
        World(
            "digits",
            "handwritten digits that bounce off the sides; captions such as 'a red three moves to the upper left'",
            digits.DigitsConfig,
            digits.clip,
            digits_oracle.check,
            digits.hold_out,
        ),
        World(
            "bounce",
            "balls that fall and bounce off walls and each other, exactly; violations of physics on request",
            bounce.BounceConfig,
            bounce.clip,
            bounce_oracle.check,
        ),
        World(
            "planes",
            "a room of textured planes, boxes and boards under a moving camera: pose, depth, flow, tracks",
            planes.PlanesConfig,
            planes.clip,
            planes_oracle.check,
        ),
        World(
            "edits",
            "sprites before and after one change; captions are instructions such as 'make the red square blue'",
            edits.EditsConfig,
            edits.clip,
            edits.check,
        ),
        World(
            "retrieval",
            "clips of several sprites with true captions and hard negatives, one word or one order off",
            retrieval.RetrievalConfig,
            retrieval.clip,
            retrieval.check,
        ),
        World(
            "figure",
            "a person in coloured clothes who walks, waves, cheers, jumps or squats: key points, garments, flow",
            figure.FigureConfig,
            figure.clip,
            figure_oracle.check,
            figure.hold_out,
        ),
        World(
            "scenes",
            "little films with cuts, fades and camera moves, and labelled defects: what curation looks for",
            scene_labels.ScenesConfig,
            scenes.clip,
            scenes_oracle.check,
        ),
        World(
            "degrade",
            "textured clips blurred, made smaller, made noisy or compressed, with their clean twins",
            degrade.DegradeConfig,
            degrade.clip,
            degrade_oracle.check,
        ),
        World(
            "events",
            "the stream of an event camera beside the frames of an ordinary one, from a high frame rate",
            events.EventsConfig,
            events.clip,
            events_oracle.check,
        ),
        World(
            "sound",
            "balls that ring whenever they hit something, in stereo: each colour has its pitch",
            sound.SoundConfig,
            sound.clip,
            sound_oracle.check,
        ),
        World(
            "multiview",
            "moving boxes and boards filmed by several cameras at once: every pose, and where each pixel is elsewhere",
            multiview.MultiviewConfig,
            multiview.clip,
            multiview_oracle.check,
        ),
    )
}


def world_of(config: Any) -> World:
    """The world that a config belongs to."""
    return next(world for world in WORLDS.values() if type(config) is world.config)
