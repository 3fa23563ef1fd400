"""The table of worlds."""

from typing import Any

from data_pipelines.worlds.bounce import oracle as bounce_oracle
from data_pipelines.worlds.bounce import world as bounce
from data_pipelines.worlds.degrade import oracle as degrade_oracle
from data_pipelines.worlds.degrade import world as degrade
from data_pipelines.worlds.digits import oracle as digits_oracle
from data_pipelines.worlds.digits import world as digits
from data_pipelines.worlds.edits import oracle as edits_oracle
from data_pipelines.worlds.edits import world as edits
from data_pipelines.worlds.events import oracle as events_oracle
from data_pipelines.worlds.events import world as events
from data_pipelines.worlds.figure import oracle as figure_oracle
from data_pipelines.worlds.figure import world as figure
from data_pipelines.worlds.multiview import oracle as multiview_oracle
from data_pipelines.worlds.multiview import world as multiview
from data_pipelines.worlds.planes import oracle as planes_oracle
from data_pipelines.worlds.planes import world as planes
from data_pipelines.worlds.retrieval import oracle as retrieval_oracle
from data_pipelines.worlds.retrieval import world as retrieval
from data_pipelines.worlds.scenes import oracle as scenes_oracle
from data_pipelines.worlds.scenes import world as scenes
from data_pipelines.worlds.sound import oracle as sound_oracle
from data_pipelines.worlds.sound import world as sound
from data_pipelines.worlds.sprites import oracle as sprites_oracle
from data_pipelines.worlds.sprites import world as sprites
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
            edits_oracle.check,
        ),
        World(
            "retrieval",
            "clips of several sprites with true captions and hard negatives, one word or one order off",
            retrieval.RetrievalConfig,
            retrieval.clip,
            retrieval_oracle.check,
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
            scenes.ScenesConfig,
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
