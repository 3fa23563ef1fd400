"""Cuts: hard ones to the picture, fades within theirs, and neither flashes nor motion nor steps of brightness."""

from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("cv2", reason="the curate extra")
pytest.importorskip("scenedetect", reason="the curate extra")

from data_pipelines.curation.cut_cascade import CascadeSettings, jumps
from data_pipelines.curation.cuts import FADE, HARD, Cut, CutSettings, find_cuts
from data_pipelines.curation.small_pictures import small_pictures
from data_pipelines.worlds.footage.files import KINDS, write_video
from data_pipelines.worlds.scenes import world as scenes
from data_pipelines.worlds.scenes.labels import ScenesConfig
from vdm_jax.media.video import VideoError

FPS, SHOT = 12, 24


def shot(index, frames=SHOT):
    """A clean shot of `scenes` at 12 pictures a second: uint8 [frames, 64, 96, 3]."""
    config = ScenesConfig(height=64, width=96, frames=frames, shots=1, defects=(), duplicates=0)
    return scenes.render(config, index, 7)[0]


@pytest.fixture(scope="module")
def first():
    return shot(1)


@pytest.fixture(scope="module")
def second():
    return shot(2)


def cuts_of(tmp_path, pixels, fps=FPS, kind=KINDS[0], ticks=None, **settings):
    path = tmp_path / f"clip{kind.suffix}"
    ticks = ticks or list(range(len(pixels)))
    path.write_bytes(write_video(kind, list(pixels), ticks, Fraction(fps), pixel_format=kind.pixel_formats[0]))
    return find_cuts(path, CutSettings(**settings))


def joined(a, b, mixed):
    """Shot a, `mixed` pictures that dissolve, shot b."""
    share = (np.arange(1, mixed + 1) / (mixed + 1))[:, None, None, None]
    both = (1 - share) * a[len(a) - mixed :] + share * b[:mixed]
    return np.concatenate([a[: len(a) - mixed], both.astype(np.uint8), b[mixed:]])


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[6], KINDS[10]], ids=lambda kind: kind.codec)
def test_hard_cut_is_found_to_the_picture(tmp_path, first, second, kind):
    found = cuts_of(tmp_path, np.concatenate([first, second]), kind=kind)
    assert [cut.kind for cut in found] == [HARD]
    assert found[0].time == pytest.approx(SHOT / FPS, abs=1.1 / FPS if kind.container == "avi" else 1e-3)
    assert found[0].start == found[0].end == found[0].time


def test_cut_where_the_rate_varies(tmp_path, first, second):
    ticks = np.cumsum([0, *([1, 3] * SHOT)])[: 2 * SHOT].tolist()
    found = cuts_of(tmp_path, np.concatenate([first, second]), fps=24, ticks=ticks)
    assert [(cut.kind, cut.time) for cut in found] == [(HARD, ticks[SHOT] / 24)]


@pytest.mark.parametrize("mixed", [4, 8, 14])
def test_dissolve(tmp_path, first, second, mixed):
    found = cuts_of(tmp_path, joined(first, second, mixed))
    assert [cut.kind for cut in found] == [FADE]
    start, end = (SHOT - mixed) / FPS, SHOT / FPS
    assert start <= found[0].time <= end
    assert found[0].start < found[0].time < found[0].end
    assert min(end, found[0].end) - max(start, found[0].start) > 0.6 * (end - start)


def test_fade_through_black(tmp_path, first, second):
    share = np.abs(np.linspace(-1, 1, 11))[:, None, None, None]
    middle = share * np.concatenate([first[-6:], second[:5]])
    found = cuts_of(tmp_path, np.concatenate([first[:-6], middle.astype(np.uint8), second[5:]]))
    assert [cut.kind for cut in found] == [FADE]
    assert (SHOT - 6) / FPS <= found[0].time <= (SHOT + 5) / FPS


def test_what_is_no_cut(tmp_path):
    pixels = shot(3, 48)
    assert cuts_of(tmp_path, pixels) == []
    flash = pixels.copy()
    flash[20:22] = 240 + flash[20:22] // 16
    assert cuts_of(tmp_path, flash) == []
    dimmed = pixels.copy()
    dimmed[24:] //= 3
    assert cuts_of(tmp_path, dimmed) == []
    assert cuts_of(tmp_path, np.repeat(pixels[:1], 30, 0)) == []
    assert cuts_of(tmp_path, pixels[:1]) == []


def test_fast_camera_is_no_cut(tmp_path, first):
    wide = np.concatenate([first[0], first[0][:, ::-1]] * 3, 1)  # mirrored, so that it goes on without an edge
    panned = np.stack([wide[:, 8 * k : 8 * k + 96] for k in range(48)])  # an eighth of the side at each step
    assert cuts_of(tmp_path, panned) == []


@pytest.mark.parametrize("mixed", [6, 12])
def test_dissolve_of_a_plain_dark_shot(tmp_path, first, second, mixed):
    """Its structure only grows, so that the mix itself must be seen."""
    dark, bright = np.repeat(first[:1] // 8, SHOT, 0), np.repeat(second[:1], SHOT, 0)
    found = cuts_of(tmp_path, joined(dark, bright, mixed))
    assert [cut.kind for cut in found] == [FADE]
    start, end = (SHOT - mixed) / FPS, SHOT / FPS
    assert min(end, found[0].end) - max(start, found[0].start) > 0.7 * (found[0].end - found[0].start)


def patchy(picture, phase):
    """Structure here and there only, as footage has it: what a mix keeps of it then differs from place to place."""
    y, x = np.mgrid[:64, :96]
    there = np.clip(2 * np.sin(x / 11 + phase) * np.sin(y / 9 + 2 * phase) + 0.3, 0, 1)[..., None]
    return (picture.mean((0, 1)) * (1 - there) + picture * there).astype(np.uint8)


@pytest.mark.parametrize("steps", [(2, -1), (3, -2)])
def test_dissolve_while_both_cameras_move(tmp_path, first, second, steps):
    """By a quarter of the side and more in the time of the mix, so that none of its pictures lies over another."""
    mixed, films = 16, []
    for pixels, phase, step in zip((first[0], second[0]), (0, 1.3), steps):
        picture = patchy(pixels, phase)
        wide = np.concatenate([picture, picture[:, ::-1]] * 4, 1)  # mirrored, so that it goes on without an edge
        films.append(np.stack([wide[:, 300 + step * k : 396 + step * k] for k in range(-48, 48)]))
    found = cuts_of(tmp_path, joined(films[0][: 40 + mixed], films[1][48 - mixed :], mixed), fps=24)
    assert [cut.kind for cut in found] == [FADE]
    start, end = 40 / 24, (40 + mixed) / 24
    assert min(end, found[0].end) - max(start, found[0].start) > 0.6 * (end - start)


@pytest.mark.parametrize("largest", [30, 40])
def test_what_comes_close_and_out_of_focus_is_no_fade(tmp_path, first, second, largest):
    """A smooth dark thing grows over the picture and goes again, while the camera turns elsewhere behind it."""
    wide = np.concatenate([first[0], second[0], first[0][:, ::-1], second[0][:, ::-1]], 1)
    y, x = np.mgrid[:64, :96]
    pixels = []
    for k in range(60):
        radius = largest * np.exp(-(((k - 30) / 10) ** 2))
        covered = 1 / (1 + np.exp((np.hypot(y - 32, x - 40) - radius) / 2))[..., None]
        behind = wide[:, 4 * k : 4 * k + 96]
        pixels.append((1 - covered) * behind + covered * (40 + 20 * np.sin(x / 40))[..., None])
    assert cuts_of(tmp_path, np.stack(pixels).astype(np.uint8)) == []


def test_pictures_that_were_not_compared_widen_a_cut(tmp_path, first, second):
    found = cuts_of(tmp_path, np.concatenate([first, second]), fps=48, rate=12)
    assert [cut.kind for cut in found] == [HARD]
    assert found[0].start <= SHOT / 48 <= found[0].end + 1e-3
    assert found[0].width <= 4 / 48


def test_scenes_f1(tmp_path):
    """The labels of clean films with three shots; what every change of the thresholds is held against."""
    right = wrong = 0
    for index in range(12):
        config = ScenesConfig(height=64, width=96, frames=56, shots=3, defects=(), duplicates=0)
        pixels, labels = scenes.render(config, index, 3)
        left = cuts_of(tmp_path, pixels)
        for join in labels.transitions:
            hits = [c for c in left if (join.start - 1.1) / FPS <= c.time <= (join.stop + 1.1) / FPS]
            right, wrong = right + bool(hits), wrong + (not hits)
            left = [cut for cut in left if cut not in hits[:1]]
        wrong += len(left)
    assert 2 * right / (2 * right + wrong) >= 0.93, (right, wrong)


def test_small_pictures(tmp_path, first):
    (tmp_path / "a.mp4").write_bytes(write_video(KINDS[0], first, range(SHOT), Fraction(24), pixel_format="yuv420p"))
    seen = list(small_pictures(tmp_path / "a.mp4", 32, 12))
    assert [small.pixels.shape for small in seen] == [(32, 48, 3)] * 12
    assert np.allclose([small.time for small in seen], np.arange(12) / 12, atol=1e-3)
    rgb = seen[0].pixels[..., ::-1].astype(float)
    assert np.abs(rgb.mean((0, 1)) - first[0].mean((0, 1))).max() < 6


def test_unusable_files(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError):
        find_cuts(tmp_path / "text.mp4", CutSettings())


@pytest.mark.parametrize("place", [1, 2, 5, 7])
def test_jump_anywhere_in_a_short_clip_in_memory(first, second, place):
    settings = CascadeSettings()
    assert jumps(first[:8], settings) == []
    assert jumps(np.concatenate([first[:place], second[place:8]]), settings) == [place]
    assert jumps(first[:1], settings) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CutSettings(side=4), "side: 4 is not within 32..512"),
        (lambda: CutSettings(uneven=-1), "uneven: -1 is not within 0..10"),
        (lambda: CutSettings(explained=2), "explained: 2 is not within 0..1"),
        (lambda: CutSettings(explained_moving=-1), "explained_moving: -1 is not within 0..1"),
        (lambda: CutSettings(ramp=(0.5, 0.1)), "ramp: .* is not two rising shares"),
        (lambda: CascadeSettings(rates=(1.0,)), "changes: 4 thresholds for 1 rates"),
        (lambda: CascadeSettings(jump=0.0), "jump: 0.0 is not positive"),
        (lambda: Cut(1, "soft", 1), "kind: 'soft'"),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
