"""The world `scenes`: little films with cuts, fades and camera moves, and the defects that curation looks for.

A clip is a sequence of shots (`shots`) that overlap in their transitions.  With the weights `a_i(k)` of shot i in
frame k,

    frame(k) = defects( sum_i a_i(k) shot_i(k) + (1 - sum_i a_i(k)) fill ) + noise,

a cut is a step of the weights, a dissolve a ramp, a fade two ramps with black or white between them.  What goes wrong
(`defects`) is drawn on top, and some clips repeat an earlier one, encoded again, cropped or brightened.  Labels
(`labels`) are exact, for the clip and for each of its frames.

Shape legend: T frames, H height, W width, I shots.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from data_pipelines.worlds.scenes import defects
from data_pipelines.worlds.scenes.defects import Canvas
from data_pipelines.worlds.scenes.labels import EDITS, STANDING, Defect, SceneLabels, ScenesConfig, Transition, caption
from data_pipelines.worlds.scenes.shots import Shot, at, shoot
from data_pipelines.worlds.world import Example
from vdm_jax.media import video as media

LEAST_SHOT = 5  # frames of a shot outside of transitions
LONGEST_FADE, LEAST_FADE = 24, 3  # frames
WINDOW = 16  # a duplicate is at most so many clips after the original
_CLASHES = (
    {"dark", "bright", "flash"},
    {"dark", "letterbox"},
    {"dark", "pillarbox"},
    {"letterbox", "pillarbox"},
    {"still", "slide", "freeze"},
    {"slide", "blur"},
    {"slide", "dark", "bright"},
)
_STANDS = {"watermark", "flash", "flicker"}  # a mark is told from the picture only where that moves


@dataclasses.dataclass(frozen=True)
class Film:
    """A clip with what it was made of.

    Attributes:
      pixels: uint8 [T, H, W, 3].
      labels: of the clip.
      shots: first frame of each shot, and the shot.
      cover: uint8 [T, H, W], 0 where a shot is seen, else the number of the bar, line or page that hides it.
    """

    pixels: np.ndarray
    labels: SceneLabels
    shots: tuple[tuple[int, Shot], ...]
    cover: np.ndarray


def clip(config: ScenesConfig, index: int, seed: int = 0) -> Example:
    """Clip `index` of the endless, reproducible sequence of `seed`; its attributes are `SceneLabels.to_dict`.

    Fields: `masks`, `flow` and `flow_visible` of the shot that has the larger share of the frame.  Bars and writing
    stand still.  Nothing is visible from or into a frame of a transition, or across a cut.
    """
    film = _repeated(config, index, seed)
    return Example(film.pixels, caption(film.labels), film.labels.to_dict(), _fields(film))


def render(config: ScenesConfig, index: int, seed: int = 0) -> tuple[np.ndarray, SceneLabels]:
    """What `clip` shows and its labels, without the fields: uint8 [T, H, W, 3], labels."""
    film = _repeated(config, index, seed)
    return film.pixels, film.labels


def _repeated(config: ScenesConfig, index: int, seed: int) -> Film:
    """The film of an index, or that of an earlier one with an edit."""
    origin, edit = _origin(config, index, seed)
    film = _film(config, np.random.default_rng([seed, origin]))
    if edit is None:
        return film
    rng = np.random.default_rng([seed, index, 2])
    labels = film.labels
    bars = labels.content != (0, config.height, 0, config.width)
    if edit == "crop" and (bars or film.cover.any() or labels.mark.any()):
        edit = "reencode"  # a crop would change what is known of them
    labels = dataclasses.replace(labels, duplicate_of=origin, edit=edit)
    if edit != "crop":
        return dataclasses.replace(film, pixels=edited(film.pixels, edit, rng), labels=labels)
    box = _box(config, rng)
    shots = tuple((first, shot.cropped(box)) for first, shot in film.shots)
    labels = dataclasses.replace(labels, **_moved(config, shots, labels.shot, labels.mix))
    return Film(_cropped(film.pixels, box), labels, shots, film.cover)


def edited(pixels: np.ndarray, edit: str, rng: np.random.Generator) -> np.ndarray:
    """A near duplicate of a clip.

    Args:
      pixels: uint8 [T, H, W, 3].
      edit: of `labels.EDITS`, but no crop.
      rng: how much.
    """
    values = pixels.astype(np.float32)
    match edit:
        case "reencode":
            coded = media.decode(media.encode_mp4(pixels, 8, crf=int(rng.integers(26, 36))))
            return coded[:, : pixels.shape[1], : pixels.shape[2]]
        case "brightness":
            values *= rng.choice((rng.uniform(0.8, 0.92), rng.uniform(1.08, 1.2)))
        case "contrast":
            values += (rng.choice((0.8, 1.2)) - 1) * (values - values.mean((1, 2, 3), keepdims=True))
        case "noise":
            values += rng.normal(0, rng.uniform(3, 8), values.shape)
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def _box(config: ScenesConfig, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of a crop, in pixels."""
    cut = rng.uniform(0.02, 0.06, 4)
    return (
        float(cut[0] * config.width),
        float(cut[1] * config.height),
        float((1 - cut[2]) * config.width),
        float((1 - cut[3]) * config.height),
    )


def _cropped(pixels: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """The box of each frame, enlarged to the size of the frame."""
    size = pixels.shape[2], pixels.shape[1]
    frames = (Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC, box) for frame in pixels)
    return np.stack([np.asarray(frame) for frame in frames])


def _origin(config: ScenesConfig, index: int, seed: int) -> tuple[int, str | None]:
    """The clip to draw and what to do to it.  Only clips of odd index repeat one, and only one of even index."""
    rng = np.random.default_rng([seed, index, 1])
    if index % 2 == 0 or rng.uniform() >= 2 * config.duplicates:
        return index, None
    latest = index // 2
    return 2 * int(rng.integers(max(0, latest - WINDOW // 2), latest + 1)), EDITS[rng.integers(len(EDITS))]


def _film(config: ScenesConfig, rng: np.random.Generator) -> Film:
    """Draws what one random stream decides."""
    kinds = choose(config, rng)
    standing = next((kind for kind in kinds if kind in STANDING), None)
    transitions = () if standing else _transitions(config, rng)
    held = None
    if "freeze" in kinds:
        held = _held(config, transitions, rng)
        if held is None:  # one shot is long enough, if any is
            transitions, held = (), _held(config, (), rng)
    weights, fill = _weights(config.frames, transitions, rng)
    mixed, shots = _shots(config, weights, fill, standing, held, rng)
    calm = weights.max(0) == 1
    for t in transitions:
        calm[max(0, t.start - 2) : t.stop + 2] = False
    canvas, found = Canvas.of(config, mixed, calm), []
    if standing:
        strength = 1.0
        if standing == "slide":
            page, strength, canvas.text[:] = defects.slide(rng, config)
            mixed[:], canvas.cover[:] = page, 1
        found.append(Defect(standing, 0, config.frames, round(strength, 6)))
    if held:
        found.append(Defect("freeze", *held, 1.0))
    found += defects.apply(canvas, kinds, rng)
    noise = rng.uniform(0, config.noise) * rng.standard_normal(mixed.shape, dtype=np.float32)
    pixels = (np.clip(canvas.pixels + noise, 0, 255) + 0.5).astype(np.uint8)
    main, mix = weights.argmax(0).astype(np.int32), (1 - weights.max(0)).astype(np.float32)
    labels = SceneLabels(
        shots=len(weights),
        transitions=transitions,
        defects=tuple(found),
        cameras=tuple(shot.camera for _, shot in shots),
        objects=tuple(n for n, (_, shot) in enumerate(shots) for _ in shot.maps[1:]),
        duplicate_of=None,
        edit=None,
        shot=main,
        mix=mix,
        blur=canvas.blur,
        exposure=canvas.exposure,
        text=canvas.text,
        mark=canvas.mark,
        content=canvas.content,
        **_moved(config, shots, main, mix),
    )
    return Film(pixels, labels, shots, canvas.cover)


def choose(config: ScenesConfig, rng: np.random.Generator) -> tuple[str, ...]:
    """None, one or two defects that can be told apart when they come together."""
    if not config.defects or rng.uniform() < config.clean:
        return ()
    first, second = rng.choice(config.defects, 2)
    pair = {first, second}
    clash = any(len(pair & group) > 1 for group in _CLASHES) or (pair & set(STANDING) and pair & _STANDS)
    return (str(first),) if first == second or clash or rng.uniform() < 2 / 3 else (str(first), str(second))


def _transitions(config: ScenesConfig, rng: np.random.Generator) -> tuple[Transition, ...]:
    """Joins of at most `config.shots` shots that leave each `LEAST_SHOT` frames."""
    found, begin = [], 0
    for left in range(int(rng.integers(config.shots)), 0, -1):
        kind = str(rng.choice(config.transitions))
        room = config.frames - begin - LEAST_SHOT * (left + 1)  # frames that may be given away
        length = 0 if kind == "cut" else int(rng.integers(LEAST_FADE, LONGEST_FADE + 1))
        if kind != "cut":
            length = min(length, room // left)
        if room < 0 or (kind != "cut" and length < LEAST_FADE):
            continue
        start = begin + LEAST_SHOT + int(rng.integers((room - length) // left + 1))
        found.append(Transition(kind, start, start + length))
        begin = start + length
    return tuple(found)


def _weights(frames: int, transitions: Sequence[Transition], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the shots, float64 [I, T], and the grey level that makes up what they lack, [T]."""
    weights, fill, k = np.zeros((len(transitions) + 1, frames)), np.zeros(frames), np.arange(frames)
    weights[0] = 1
    for number, t in enumerate(transitions):
        ramp = np.clip((k - t.start + 1) / (t.stop - t.start + 1), 0, 1)  # of a cut: a step at its frame
        out, into = (1 - ramp, ramp) if t.kind != "fade" else (np.maximum(1 - 2 * ramp, 0), np.maximum(2 * ramp - 1, 0))
        weights[number + 1] = into * (k >= t.start)
        weights[number] *= out
        if t.kind == "fade":
            fill[t.start : t.stop] = rng.choice((0.0, 0.0, 255.0))
    return weights, fill


def _shots(
    config: ScenesConfig,
    weights: np.ndarray,
    fill: np.ndarray,
    standing: str | None,
    held: tuple[int, int] | None,
    rng: np.random.Generator,
) -> tuple[np.ndarray, tuple[tuple[int, Shot], ...]]:
    """The mixed shots, float32 [T, H, W, 3]; the first frame of each shot, and the shot."""
    mixed = np.zeros((config.frames, config.height, config.width, 3), np.float32)
    mixed += ((1 - weights.sum(0)) * fill)[:, None, None, None]
    main, shots = weights.argmax(0), []
    for number, weight in enumerate(weights):
        seen = np.flatnonzero((weight > 0) | (main == number))
        first, last = int(seen[0]), int(seen[-1]) + 1
        times = np.arange(last - first)
        if held and main[held[0]] == number:
            start, stop = (edge - first for edge in held)
            times[start:stop] = start
            times[stop:] -= stop - start - 1  # it goes on where it was held
        shot = shoot(rng, config, times, standing=standing is not None)
        mixed[first:last] += weight[first:last, None, None, None].astype(np.float32) * shot.pixels
        shots.append((first, shot))
    return mixed, tuple(shots)


def _moved(config: ScenesConfig, shots: Sequence[tuple[int, Shot]], main: np.ndarray, mix: np.ndarray) -> dict:
    """The labels `camera_motion`, `object_motion` and `still`."""
    motion = np.zeros((2, config.frames), np.float32)
    follows = np.zeros(config.frames, bool)  # the frame before is of the same shot
    follows[1:] = main[1:] == main[:-1]
    for number, (first, shot) in enumerate(shots):
        span = slice(first, first + len(shot.ids))
        motion[:, span] += np.where(follows[span] & (main[span] == number), np.stack(shot.motion()), 0) / config.side
    pure = mix == 0
    still = follows & pure & np.concatenate([[False], pure[:-1]]) & (motion.sum(0) == 0)
    return {"camera_motion": motion[0], "object_motion": motion[1], "still": still}


def _fields(film: Film) -> dict[str, np.ndarray]:
    """The fields `masks`, `flow` and `flow_visible` (see `world.FIELDS`)."""
    main, pure = film.labels.shot, film.labels.mix == 0
    masks = np.zeros(film.cover.shape, np.uint8)
    flow = np.zeros((*film.cover.shape, 2), np.float32)
    seen = np.zeros(film.cover.shape, bool)
    objects = 0
    for number, (first, shot) in enumerate(film.shots):
        mine = np.flatnonzero(main == number)
        masks[mine] = np.where(shot.ids > 0, shot.ids + objects, 0)[mine - first]
        flow[mine], seen[mine] = (of_shot[mine - first] for of_shot in shot.flow())
        objects += len(shot.maps) - 1
    covered = film.cover > 0
    masks[covered], flow[covered] = 0, 0
    hidden = at(covered[1:], flow[:-1])  # by something that covers the point in the next frame
    lasting = (main[1:] == main[:-1]) & pure[1:] & pure[:-1]
    seen = np.where(covered[:-1], film.cover[1:] == film.cover[:-1], seen[:-1] & ~hidden)
    return {"masks": masks, "flow": flow[:-1], "flow_visible": seen & lasting[:, None, None]}


def _held(config: ScenesConfig, transitions: Sequence[Transition], rng: np.random.Generator) -> tuple[int, int] | None:
    """Frames of a freeze within the longest stretch without a transition; None if that is too short."""
    edges = [0, *(e for t in transitions for e in (t.start, t.stop)), config.frames]
    start, stop = max(zip(edges[::2], edges[1::2]), key=lambda span: span[1] - span[0])
    if stop - start < 6:
        return None
    length = int(rng.integers(4, stop - start - 1))
    begin = start + int(rng.integers(stop - start - length + 1))
    return begin, begin + length
