"""Fields: what worlds know and what is computed, cut, shrunk and mirrored as the clips of the batch are."""

import dataclasses
import sys

import numpy as np
import pytest

from data_pipelines.loading.fields import FIELDS, fields_of
from data_pipelines.loading.fields.audio import Audio
from data_pipelines.loading.fields.field import Cut
from data_pipelines.loading.fields.optical_flow import OpticalFlow
from data_pipelines.loading.fields.stored import DIMS, Stored
from data_pipelines.loading.loader import DataConfig, make_loader
from data_pipelines.loading.plan import _decoded_bytes
from data_pipelines.shards.manifest import ClipSpec
from data_pipelines.shards.schema import ClipRecord, StoredField
from data_pipelines.shards.writer import open_writer
from data_pipelines.worlds.drawing import pinhole
from data_pipelines.worlds.multiview import world as multiview
from data_pipelines.worlds.multiview.oracle import epipolar
from data_pipelines.worlds.multiview.world import MultiviewConfig
from data_pipelines.worlds.world import FIELDS as OF_WORLDS
from tests.data_pipelines import latent_sets
from tests.data_pipelines.pixel_sets import write
from vdm_jax.errors import RunError
from vdm_jax.types import Bucket

SIDE = 32


def scene(flip=False, scale=1.0, corner=(0, 0), size=(SIDE, SIDE), numbers=(0, 1, 2)):
    """The cut of a clip with one point per pixel row: a camera before points, and where they are seen."""
    rng = np.random.default_rng(0)
    frames, points = 5, rng.uniform(-1, 1, (9, 3)) + [0, 0, 6]
    camera = np.tile(np.eye(3, 4, dtype=np.float32), (frames, 1, 1))
    angle = 0.1 * np.arange(frames)
    camera[:, 0, 0] = camera[:, 2, 2] = np.cos(angle)
    camera[:, 0, 2], camera[:, 2, 0] = np.sin(angle), -np.sin(angle)
    camera[:, 0, 3] = 0.05 * np.arange(frames)
    intrinsics = np.tile(np.float32([[40, 0.5, 17], [0, 42, 15], [0, 0, 1]]), (frames, 1, 1))
    tracks = project(points, camera, intrinsics)
    arrays = {"camera": camera, "intrinsics": intrinsics, "tracks": tracks}
    numbers = np.array(numbers)
    cut = Cut(np.zeros((len(numbers), *size, 3), np.uint8), 0, arrays, numbers, frames, (scale, scale), corner, flip)
    return cut, points


def project(points, camera, intrinsics):
    """[T, N, 2] float32: where points [N, 3] are seen."""
    seen = np.einsum("tij,nj->tni", camera[..., :3], points) + camera[:, None, :, 3]
    flat = np.einsum("tij,tnj->tni", intrinsics, seen)
    return (flat[..., :2] / flat[..., 2:]).astype(np.float32)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("scale", "corner", "size"), [(1.0, (0, 0), (32, 32)), (0.5, (3, 2), (10, 12))])
def test_cameras_and_tracks_still_agree_after_every_cut(flip, scale, corner, size):
    """The mirrored scene, seen by the new camera, is where the new tracks are."""
    cut, points = scene(flip, scale, corner, size, numbers=(1, 3, 4))
    camera, intrinsics, tracks = (Stored(name).compute(cut) for name in ("camera", "intrinsics", "tracks"))
    np.testing.assert_allclose(np.linalg.det(camera[..., :3]), 1, rtol=1e-5)
    mirrored = points * [-1, 1, 1] if flip else points
    np.testing.assert_allclose(project(mirrored, camera, intrinsics), tracks, atol=1e-3)
    assert (camera.dtype, intrinsics.dtype, tracks.dtype) == (np.float32,) * 3


def test_every_field_of_the_worlds_can_be_read():
    assert DIMS.keys() <= FIELDS.keys()
    assert {name: OF_WORLDS[name].dims for name in DIMS} == DIMS
    assert OF_WORLDS.keys() - DIMS.keys() == {"audio", "events"}  # a field of its own, and clips of unequal length


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("scale", "corner", "size"), [(1, (0, 0), (16, 20)), (1, (3, 2), (10, 12)), (0.5, (1, 2), (6, 7))]
)
def test_views_are_cut_as_the_clip_is(flip, scale, corner, size):
    """Tracks and matches lie on the epipolar lines of the cameras, all of them cut alike."""
    made = multiview.clip(MultiviewConfig(height=16, width=20, frames=4, cameras=2), 3)
    video, how = np.zeros((3, *size, 3), np.uint8), ((scale, scale), corner, flip, True)
    cut = Cut(video, 0, {**made.fields, "clean": made.fields["views"][0]}, np.array([0, 2, 3]), 4, *how)
    got = {name: Stored(name).compute(cut) for name in (*made.fields, "clean")}
    np.testing.assert_array_equal(got["views"][0], got["clean"])
    cameras, lens = (got["camera"], got["views_camera"][0]), got["views_intrinsics"][0, 0]
    np.testing.assert_array_equal(lens, got["intrinsics"][0])
    assert epipolar(got["tracks"], got["views_tracks"][0], cameras, lens).max() < 0.01
    here = pinhole.grid(*size)
    there = here + got["matches"][0].reshape(3, -1, 2)
    assert epipolar(here, there, cameras, lens).max() < (0.01 if scale == 1 else 0.5)  # of a larger pixel's centre
    seen = got["matches_visible"][0].reshape(3, -1)
    assert seen.any()
    assert ((there[seen] >= 0) & (there[seen] < size[::-1])).all()
    assert got["views_tracks_visible"].shape == (1, 3, 16)


def test_what_leaves_the_cut_is_seen_no_more():
    cut, _ = scene(False, 1.0, (4, 4), (12, 12))
    arrays = dict(cut.arrays) | {"tracks_visible": np.ones(cut.arrays["tracks"].shape[:2], bool)}
    cut = dataclasses.replace(cut, arrays=arrays)
    tracks, seen = Stored("tracks").compute(cut), Stored("tracks_visible").compute(cut)
    np.testing.assert_array_equal(seen, ((tracks >= 0) & (tracks < 12)).all(-1))
    assert 0 < seen.mean() < 1
    assert Stored("tracks_visible").needs == ("tracks_visible", "tracks")


def flowing(flip, scale, corner, size):
    """A clip of which every pixel moves by (2, 4), with its flow and masks that are its columns and rows."""
    flow = np.zeros((2, SIDE, SIDE, 2), np.float32) + [2, 4]
    masks = np.arange(SIDE, dtype=np.uint8) + np.zeros((3, SIDE, 1), np.uint8)
    arrays = {"flow": flow, "masks": masks, "depth": masks.astype(np.float32)}
    return Cut(np.zeros((3, *size, 3), np.uint8), 0, arrays, np.arange(3), 3, (scale, scale), corner, flip)


def test_values_of_pixels_are_those_at_their_centres():
    cut = flowing(True, 0.5, (0, 4), (16, 8))
    np.testing.assert_array_equal(Stored("masks").compute(cut)[0, 0], [2 * (11 - k) + 1 for k in range(8)])
    np.testing.assert_array_equal(Stored("flow").compute(cut), np.zeros((2, 16, 8, 2)) + [-1, 2])
    plain = flowing(False, 1.0, (0, 0), (SIDE, SIDE))
    np.testing.assert_array_equal(Stored("depth").compute(plain), plain.arrays["depth"])


@pytest.mark.parametrize("covers", [False, True])
def test_pictures_are_resized_and_mirrored_as_the_clip_is(tmp_path, covers):
    """A set whose clips are stored a second time, as what they were before."""
    fields = {"clean": StoredField((2, SIDE, 2 * SIDE, 3), "uint8")}
    rng = np.random.default_rng(0)
    with open_writer(tmp_path / "set", ClipSpec(2, SIDE, 2 * SIDE, "raw", fields)) as writer:
        for i in range(8):
            video = rng.integers(0, 256, (2, SIDE, 2 * SIDE, 3), np.uint8)
            kept = {"clean": video}
            writer.add(
                ClipRecord(video.tobytes(), "raw", "", 8.0, 2, SIDE, 2 * SIDE, "x", 0.0, "train", i, fields=kept)
            )
        writer.finish({"pipeline": "test"}, {})
    how = {"resize": "cover", "crop": "random", "width": 12} if covers else {"width": 32}
    config = DataConfig(str(tmp_path / "set"), 2, **{"height": 16, "flip": True, "fields": ("clean",), **how})
    with opened(config) as loader:
        batch = next(loader)
    assert batch["video"].shape == (8, 2, 16, how["width"], 3)
    np.testing.assert_array_equal(batch["clean"], batch["video"])


def test_counts_of_events_are_not_resized():
    cut = flowing(True, 1.0, (0, 0), (SIDE, SIDE))
    counts = np.random.default_rng(0).integers(0, 9, (2, SIDE, SIDE, 2), np.uint8)
    cut = dataclasses.replace(cut, arrays={"event_counts": counts})
    np.testing.assert_array_equal(Stored("event_counts").compute(cut), counts[:, :, ::-1])
    with pytest.raises(RunError, match="field 'event_counts': are those of the stored pixels"):
        Stored("event_counts").compute(dataclasses.replace(cut, scale=(0.5, 0.5)))


def test_fields_that_do_not_fit_the_clip_are_refused():
    cut = dataclasses.replace(flowing(False, 1.0, (0, 0), (SIDE, SIDE)), frames=4, numbers=np.arange(4))
    with pytest.raises(RunError, match="field 'flow': has 2 entries for a clip of 4 frames"):
        Stored("flow").compute(cut)


def opened(config, batch=8, **options):
    options = {"split": "train", "buckets": config.buckets or [config.bucket(batch)], "seed": 0} | options
    return make_loader(config, **options)


def test_batches_hold_the_fields_that_are_asked_for(shards):
    names = ("flow", "masks", "first_frame", "degraded", "optical_flow")
    pytest.importorskip("cv2", reason="optical flow is OpenCV's, of the extra 'curate'")
    config = DataConfig(str(shards), 4, 16, 16, fields=names, flip=True, random_start=True)
    with opened(config) as loader:
        batch = next(loader)
    shapes = {name: (batch[name].shape, batch[name].dtype.name) for name in names}
    assert shapes == {
        "flow": ((8, 3, 16, 16, 2), "float32"),
        "masks": ((8, 4, 16, 16), "uint8"),
        "first_frame": ((8, 16, 16, 3), "uint8"),
        "degraded": ((8, 4, 16, 16, 3), "uint8"),
        "optical_flow": ((8, 3, 16, 16, 2), "float32"),
    }
    np.testing.assert_array_equal(batch["first_frame"], batch["video"][:, 0])
    worse = np.abs(batch["degraded"].astype(float) - batch["video"])
    assert 1 < worse.mean() < 60
    grey = batch["video"].astype(float).std(axis=(2, 3, 4)) > 1
    assert grey.all()
    same = DataConfig(str(shards), 4, 16, 16, fields=names, flip=True, random_start=True, cache_megabytes=0)
    with opened(same) as loader:
        again = next(loader)
    for key in batch:
        np.testing.assert_array_equal(batch[key], again[key])


def test_arrays_count_as_what_is_kept_in_memory(shards):
    """24 clips of 8x16x16: 6 KiB of pixels each, and 14 KiB of flow."""
    config = DataConfig(str(shards), 8, 16, 16, cache_megabytes=1)
    sizes = {}
    for fields in ((), ("flow",)):
        with opened(dataclasses.replace(config, fields=fields)) as loader:
            (source,) = loader._opened.sources.values()
            sizes[fields] = _decoded_bytes(source, loader._plan.config)
    assert sizes == {(): 8 * 16 * 16 * 3, ("flow",): 8 * 16 * 16 * 3 + 7 * 16 * 16 * 2 * 4}


def test_flow_of_a_world_leads_from_each_frame_to_the_next(shards):
    """On what moves, mirrored or not: the picture warped back along the flow is the picture before."""
    config = DataConfig(str(shards), 8, 16, 16, fields=("flow", "masks"), flip=True)
    moved, still = [], []
    with opened(config) as loader:
        for batch in (next(loader) for _ in range(3)):
            for video, flow, masks in zip(batch["video"].astype(float), batch["flow"], batch["masks"]):
                for t in range(7):
                    rows, columns = np.nonzero(masks[t])
                    to = np.floor(np.stack([rows, columns], 1) + 0.5 + flow[t, rows, columns, ::-1]).astype(int)
                    inside = ((to >= 0) & (to < 16)).all(1)
                    rows, columns, to = rows[inside], columns[inside], to[inside]
                    moved.append(np.abs(video[t + 1, to[:, 0], to[:, 1]] - video[t, rows, columns]).mean())
                    still.append(np.abs(video[t + 1, rows, columns] - video[t, rows, columns]).mean())
    assert np.mean(moved) < 0.7 * np.mean(still)


def test_optical_flow_finds_a_moving_texture():
    pytest.importorskip("cv2", reason="optical flow is OpenCV's, of the extra 'curate'")
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (12, 12, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    video = np.stack([texture[10 + k : 74 + k, 20 - 2 * k : 84 - 2 * k] for k in range(3)])
    cut = Cut(video, 0, {}, np.arange(3), 3, (1.0, 1.0), (0, 0), False)
    flow = OpticalFlow().compute(cut)[:, 12:-12, 12:-12]
    assert np.abs(np.median(flow, axis=(0, 1, 2)) - [2, -1]).max() < 0.2
    alone = dataclasses.replace(cut, video=video[:1])
    assert OpticalFlow().compute(alone).shape == (0, 64, 64, 2)


def test_sound_is_heard_in_the_frame_it_belongs_to():
    samples = np.zeros(8000, np.float32)
    samples[3000:4000] = np.sin(np.arange(1000) * 0.6)  # frame 3 of 8
    cut = Cut(np.zeros((4, 4, 4, 3), np.uint8), 0, {"audio": samples}, np.arange(1, 5), 8, (1.0, 1.0), (0, 0), False)
    loud = Audio().compute(cut)
    assert (loud.shape, loud.dtype) == ((4, 32), np.float32)
    assert loud.max(axis=1).argmax() == 2
    pitch = [Audio().compute(dataclasses.replace(cut, arrays={"audio": np.sin(np.arange(8000) * w).astype(np.float32)}))
             for w in (0.2, 0.8, 2.0)]  # fmt: skip
    bands = [one[1].argmax() for one in pitch]
    assert bands == sorted(set(bands))
    with pytest.raises(RunError, match=r"field 'audio': samples \[3\] for a clip of 8 frames"):
        Audio().compute(dataclasses.replace(cut, arrays={"audio": samples[:3]}))


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"fields: 'optical_flow' needs OpenCV: pip install 'vdm_jax\[curate\]'"):
        fields_of(("optical_flow",))


def test_wrong_fields_are_named(shards, tmp_path):
    plain = DataConfig(write(tmp_path / "set", rates=(8.0, 16.0)), 4, 16, 16)
    with pytest.raises(ValueError, match="fields: unknown 'flwo'; did you mean 'flow'"):
        dataclasses.replace(plain, fields=("flwo",))
    with pytest.raises(ValueError, match="fields: 'degraded' comes twice"):
        dataclasses.replace(plain, fields=("degraded", "degraded"))
    with pytest.raises(ValueError, match="data.fields: .*no 'depth'"):
        opened(dataclasses.replace(plain, fields=("depth",)))
    world = DataConfig(str(shards), 4, 16, 16, fields=("flow",))
    with pytest.raises(
        ValueError, match="data.fields: 'flow' is between stored frames, of which 4 fps leaves some out"
    ):
        opened(dataclasses.replace(world, fps=4.0, frames=2))
    packed = (Bucket(4, 16, 16, 2, pack=(2, 2)),)
    with pytest.raises(ValueError, match=r"data.buckets\[0\].pack: packed clips cannot have 'flow' \(data.fields\)"):
        opened(dataclasses.replace(world, buckets=packed))
    latent_sets.write(tmp_path / "latents")
    latents = DataConfig(str(tmp_path / "latents"), 3, 4, 4, fields=("first_frame",))
    with pytest.raises(ValueError, match="data.fields: 'first_frame' is of pixels, and .* holds latents"):
        opened(latents)
