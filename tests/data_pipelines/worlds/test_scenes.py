"""The world of scenes: reproducible, and its labels say what the pixels show."""

import dataclasses
import json

import numpy as np
import pytest

from data_pipelines.worlds.drawing.pictures import luminance
from data_pipelines.worlds.scenes import defects
from data_pipelines.worlds.scenes import shots as scene_shots
from data_pipelines.worlds.scenes import world as scenes
from data_pipelines.worlds.scenes.defects import Canvas
from data_pipelines.worlds.scenes.labels import DEFECTS, ScenesConfig, caption

CONFIG = ScenesConfig(height=32, width=40, frames=20)
CLEAN = dataclasses.replace(CONFIG, defects=(), duplicates=0.0, noise=0.0)


def with_defect(kind, **changes):
    return dataclasses.replace(CLEAN, defects=(kind,), clean=0.0, **changes)


def clips(config, count=8, seed=5):
    return [scenes.render(config, i, seed) for i in range(count)]


@pytest.fixture(scope="module")
def clean():
    return clips(CLEAN, 16)


def test_clip_depends_on_its_index_alone():
    again = {i: scenes.render(CONFIG, i, 5) for i in reversed(range(6))}
    for i, (pixels, labels) in enumerate(clips(CONFIG, 6)):
        np.testing.assert_array_equal(pixels, again[i][0])
        assert labels.to_dict() == again[i][1].to_dict()
    assert not np.array_equal(again[0][0], scenes.render(CONFIG, 0, 6)[0])


@pytest.mark.parametrize("size", [(16, 16, 1), (16, 128, 2), (31, 17, 9), (128, 128, 5), (16, 24, 128)])
def test_shape_type_and_labels_of_every_size(size):
    height, width, frames = size
    config = ScenesConfig(height=height, width=width, frames=frames, clean=0.0)
    for i in range(6):
        pixels, labels = scenes.render(config, i, 0)
        assert (pixels.shape, pixels.dtype) == ((frames, height, width, 3), np.uint8)
        for name in ("shot", "mix", "camera_motion", "object_motion", "still", "blur", "exposure", "text", "mark"):
            assert getattr(labels, name).shape == (frames,), name
        assert json.loads(json.dumps(labels.to_dict()))["shots"] == labels.shots == len(labels.cameras)
        assert caption(labels)


def test_cuts_are_where_the_picture_changes(clean):
    for pixels, labels in clean:
        change = np.abs(np.diff(pixels.astype(int), axis=0)).mean((1, 2, 3))
        cuts = {t.start for t in labels.transitions if t.kind == "cut"}
        assert np.flatnonzero(np.diff(labels.shot)).tolist() == sorted(
            t.start - 1
            if t.kind == "cut"
            else int(np.flatnonzero(np.diff(labels.shot) & (np.arange(1, 20) >= t.start))[0])
            for t in labels.transitions
        )
        for start in cuts:
            others = [change[k - 1] for k in range(1, 20) if labels.mix[k] == labels.mix[k - 1] == 0 and k not in cuts]
            assert change[start - 1] > 1.3 * max(others)


def test_transitions_mix_and_nothing_else_does(clean):
    inside = [{k for t in labels.transitions for k in range(t.start, t.stop)} for _, labels in clean]
    assert all(set(np.flatnonzero(labels.mix)) == frames for frames, (_, labels) in zip(inside, clean))
    assert {t.kind for _, labels in clean for t in labels.transitions} == set(CLEAN.transitions)


def test_each_shot_has_frames_of_its_own(clean):
    for _, labels in clean:
        edges = [0, *(edge for t in labels.transitions for edge in (t.start, t.stop)), CLEAN.frames]
        assert min(b - a for a, b in zip(edges[::2], edges[1::2])) >= scenes.LEAST_SHOT


def test_flow_leads_to_the_next_frame():
    """Warped along the flow, frame k is frame k + 1 wherever the same thing is seen."""
    for seed in range(8):
        shot = scene_shots.shoot(np.random.default_rng(seed), ScenesConfig(frames=8), np.arange(8))
        (flow, seen), luma = shot.flow(), luminance(shot.pixels)
        there = scene_shots.at(luma[1:], flow[:-1])
        errors, still = (np.abs(after - luma[:-1])[seen[:-1]] for after in (there, luma[1:]))
        assert np.mean(errors) < 10, shot.camera  # half a pixel of rounding at edges and grain
        if np.abs(flow).mean() > 1:
            assert np.mean(errors) < 0.7 * np.mean(still)


def test_fields_of_the_whole_clip():
    """Along visible flow a clip keeps its brightness, whatever the defect; the rest is not claimed to be seen."""
    for kind in ("letterbox", "subtitle", "slide", "watermark", "still"):
        example = scenes.clip(with_defect(kind), 3, 0)
        flow, seen, masks = (example.fields[name] for name in ("flow", "flow_visible", "masks"))
        luma = luminance(example.video)
        error = np.abs(scene_shots.at(luma[1:], flow) - luma[:-1])
        assert error[seen].mean() < 12, kind
        labels = scenes.render(with_defect(kind), 3, 0)[1]
        assert not seen[(labels.mix[1:] > 0) | (labels.mix[:-1] > 0) | (np.diff(labels.shot) > 0)].any()
        assert masks.max() <= len(example.attributes["objects"]) == len(labels.objects)
        if kind in ("slide", "still"):
            assert seen.all()
            assert not flow.any()


def test_a_crop_enlarges_the_flow():
    shot = scene_shots.shoot(np.random.default_rng(2), CONFIG, np.arange(4))
    flow, _ = shot.flow()
    same, _ = shot.cropped((0.0, 0.0, 40.0, 32.0)).flow()
    twice = shot.cropped((0.0, 0.0, 20.0, 16.0))
    np.testing.assert_allclose(same, flow, atol=1e-5)
    np.testing.assert_array_equal(twice.ids[:, ::2, ::2], shot.ids[:, :16, :20])
    background = (twice.ids[:, 1::2, 1::2] == 0) & (shot.ids[:, :16, :20] == 0)
    between = (twice.flow()[0][:, 1::2, 1::2] + twice.flow()[0][:, ::2, ::2]) / 2
    uniform = (twice.ids[:, 1::2, 1::2] == twice.ids[:, ::2, ::2]) & background
    np.testing.assert_allclose(between[uniform], 2 * flow[:, :16, :20][uniform], atol=1e-4)


def test_motion_labels_are_the_mean_of_the_flow():
    shot = scene_shots.shoot(np.random.default_rng(3), dataclasses.replace(CLEAN, objects=0), np.arange(20))
    camera, own = shot.motion()
    assert camera[0] == 0
    assert not own.any()
    np.testing.assert_allclose(
        camera[1:], np.linalg.norm(shot.flow()[0], axis=-1).mean((1, 2))[:-1], rtol=0.15, atol=0.02
    )


@pytest.mark.parametrize("kind", ["still", "slide"])
def test_standing_clips_do_not_change(kind):
    for pixels, labels in clips(with_defect(kind)):
        assert (pixels == pixels[0]).all()
        assert labels.still[1:].all()
        assert labels.camera_motion.max() == labels.object_motion.max() == 0


def test_a_freeze_holds_the_picture_and_the_rest_moves():
    for pixels, labels in clips(with_defect("freeze")):
        same = (pixels[1:] == pixels[:-1]).all((1, 2, 3))
        np.testing.assert_array_equal(same, labels.still[1:])
        held = labels.defects[0]
        assert labels.still[held.start + 1 : held.stop].all()


def test_clean_clips_move_in_every_shot(clean):
    for _, labels in clean:
        assert not labels.still.any()
        assert not labels.defects


@pytest.mark.parametrize(("kind", "ratio"), [("dark", (0.04, 0.24)), ("bright", (1.3, 2.7))])
def test_exposure_is_the_factor(kind, ratio):
    for pixels, labels in clips(with_defect(kind)):
        defect = labels.defects[0]
        wrong = labels.exposure != 1
        assert wrong.sum() == defect.stop - defect.start
        plain = luminance(pixels)[~wrong & (labels.mix == 0)]
        if len(plain):
            factor = luminance(pixels)[wrong & (labels.mix == 0)].mean() / plain.mean()
            assert ratio[0] < factor < ratio[1]


def test_over_exposure_leaves_something_to_be_seen():
    for pixels, labels in clips(with_defect("bright"), 12):
        shown = pixels[(labels.exposure > 1) & (labels.mix == 0)]
        lost = (shown > 250).mean((1, 2, 3))
        assert lost.max() > 0.2
        assert lost.max() < defects.LOST + 0.05 or labels.defects[0].strength == defects.BRIGHT[0]


def test_bars_are_black_and_the_content_is_not():
    for kind in ("letterbox", "pillarbox"):
        for pixels, labels in clips(with_defect(kind)):
            top, bottom, left, right = labels.content
            inside = np.zeros(pixels.shape[1:3], bool)
            inside[top:bottom, left:right] = True
            assert pixels[:, ~inside].max() < 8
            assert ((labels.mix > 0) | (pixels[:, inside].mean((1, 2)) > 40)).all()
            assert (~inside).mean() == pytest.approx(labels.defects[0].strength, abs=1e-6)


@pytest.mark.parametrize("kind", ["subtitle", "title", "watermark"])
def test_overlays_cover_what_the_labels_count(kind):
    for seed in range(6):
        canvas = Canvas.of(CONFIG, np.full((20, 32, 40, 3), 100, np.float32), np.ones(20, bool))
        (defect,) = defects.apply(canvas, (kind,), np.random.default_rng(seed))
        rows, columns = np.nonzero((canvas.pixels != 100).any((0, 3)))
        box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1) / (32 * 40)
        shown = canvas.mark if kind == "watermark" else canvas.text
        assert np.flatnonzero(shown).tolist() == list(range(defect.start, defect.stop))
        changed = (canvas.pixels != 100).any((1, 2, 3))
        np.testing.assert_array_equal(changed, shown > 0)
        assert 0.3 * box < shown.max() < 1.7 * box  # a box of letters is not quite that of their ink


def test_blur_removes_detail():
    for pixels, labels in clips(with_defect("blur", shots=1, frames=8)):
        detail = np.abs(np.diff(luminance(pixels), 2, axis=2)).mean((1, 2))
        assert detail[labels.blur > 0].max() < 6
        assert (labels.blur == 0).all() or labels.blur.max() >= 0.02
        if (labels.blur == 0).any():
            assert detail[labels.blur == 0].min() > 1.5 * detail[labels.blur > 0].max()


@pytest.mark.parametrize("kind", ["blur", "dark", "bright", "flicker"])
def test_transitions_do_not_hide_what_is_labelled(kind):
    calm = np.zeros(20, bool)
    calm[[0, 1, 18, 19]] = True
    for seed in range(12):
        canvas = Canvas.of(CONFIG, np.full((20, 32, 40, 3), 100, np.float32), calm)
        (defect,) = defects.apply(canvas, (kind,), np.random.default_rng(seed))
        assert calm[defect.start : defect.stop].sum() >= 3


def test_duplicates_repeat_an_original_with_an_edit():
    config = dataclasses.replace(CONFIG, duplicates=0.5, defects=())
    found = [(i, *scenes.render(config, i, 1)) for i in range(24)]
    repeated = [(i, pixels, labels) for i, pixels, labels in found if labels.edit]
    assert [i for i, _, _ in repeated] == list(range(1, 24, 2))
    for i, pixels, labels in repeated:
        assert labels.duplicate_of < i
        _, original, plain = found[labels.duplicate_of]
        assert plain.duplicate_of is None
        moved = {"camera_motion": plain.camera_motion, "object_motion": plain.object_motion}  # larger in a crop
        assert labels.edit == "crop" or (labels.camera_motion == plain.camera_motion).all()
        assert (labels.camera_motion >= 0.99 * plain.camera_motion).all()
        assert dataclasses.replace(labels, duplicate_of=None, edit=None, **moved).to_dict() == plain.to_dict()
        assert 0 < np.abs(pixels.astype(float) - original).mean() < 40
    assert {labels.edit for _, _, labels in repeated} == {"reencode", "crop", "brightness", "contrast", "noise"}


def test_every_defect_occurs():
    seen = {d.kind for i in range(150) for d in scenes.render(dataclasses.replace(CONFIG, frames=8), i, 2)[1].defects}
    assert seen == set(DEFECTS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("height", 8),
        ("frames", 129),
        ("shots", 0),
        ("objects", 5),
        ("defects", ("blurr",)),
        ("defects", ("blur", "blur")),
        ("transitions", ()),
        ("duplicates", 0.6),
        ("fps", 0.0),
    ],
)
def test_wrong_settings_are_named(field, value):
    with pytest.raises(ValueError, match=f"^{field}: "):
        dataclasses.replace(CONFIG, **{field: value})


def test_a_kind_that_is_none_is_named(clean):
    with pytest.raises(ValueError, match="kind: unknown 'blurr'; did you mean 'blur'"):
        clean[0][1].has("blurr")
