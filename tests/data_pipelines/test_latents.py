"""Latent sets: what is stored comes back, whole or resumed, also through a stock TFDS; what differs is refused."""

import dataclasses
import errno
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines.loading.loader import DataConfig, make_loader
from data_pipelines.loading.stored import stored_in
from data_pipelines.shards import latent_writer
from data_pipelines.shards import manifest as manifests
from data_pipelines.shards.latent_writer import finished, plan_for
from data_pipelines.shards.latents import NULL_FILE, Entry, read_null
from data_pipelines.shards.reader import ClipSource, captions, verify
from data_pipelines.worlds.sprites.world import SpritesConfig
from data_pipelines.worlds.write import write_world
from tests.data_pipelines.latent_sets import clip, null, spec, write
from vdm_jax.errors import RunError
from vdm_jax.types import Bucket


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """24 + 8 clips with every kind of condition, in several shards; not to be changed."""
    out = tmp_path_factory.mktemp("latents") / "set"
    write(out, spec(first_frame=True), shard_bytes=4000)
    return out


def data(shards, **changes):
    return DataConfig(**{"shards": str(shards), "frames": 3, "height": 4, "width": 4, **changes})


def first_batch(config, batch=8, buckets=None, **options):
    with make_loader(config, "train", buckets or [config.bucket(batch)], 0, shuffle=False, **options) as loader:
        return next(loader)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("float16", 1e-3), ("bfloat16", 1e-2)])
def test_what_was_written_comes_back(tmp_path, dtype, error):
    made = spec(dtype=dtype, first_frame=True)
    write(tmp_path / "set", made)
    for cache in (0, 512):
        batch = first_batch(data(tmp_path / "set", cache_megabytes=cache))
        assert batch["index"].tolist() == list(range(8))
        for k in range(8):
            expected = clip(made, k)
            np.testing.assert_allclose(np.float32(batch["video"][k]), expected.latents, rtol=error, atol=1e-7)
            for name, value in expected.conditions.items():
                np.testing.assert_allclose(
                    batch[name.removeprefix("vector.")][k], value, rtol=error, atol=1e-7, err_msg=name
                )
        assert {name: value.dtype.name for name, value in batch.items() if name not in ("index", "caption")} == {
            "video": dtype, "fps": "float32", "tokens": "float32", "tokens_mask": "bool", "concat": "float32",
            "image": "float32", "motion": "float32",
        }  # fmt: skip


def test_rows_that_stand_there_anyway_are_not_stored(whole):
    record = ClipSource(whole, "train").record(1)
    stored = {name: value.shape for name, value in record.conditions.items()}
    assert stored == {
        "tokens": (2, 8),
        "tokens_mask": (2,),
        "concat": (1, 4, 4, 4),
        "image": (1, 8),
        "vector.motion": (),
    }
    assert Entry((3, 2), "float32").trim(np.zeros((3, 2))).shape == (0, 2)
    assert Entry((3, 2), "float32", "last").trim(np.arange(6.0).reshape(3, 2)).shape == (3, 2)


def test_a_stock_tfds_reads_it_without_tensorflow(whole):
    code = f"""
import sys, tensorflow_datasets as tfds
source = tfds.builder_from_directory({str(whole)!r}).as_data_source("val")
clip = source[0]
print([len(source), *clip["latents"].shape, clip["latents"].dtype.name, *clip["tokens"].shape])
assert "tensorflow" not in sys.modules
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[8, 3, 4, 4, 4, 'float16', 5, 8]"


def test_the_set_says_what_it_holds(whole):
    stored = stored_in([whole])
    assert stored.channels == 4
    assert stored.conditions == {
        "tokens": (6, 8), "tokens_mask": (6,), "concat": (3, 4, 4, 4), "image": (2, 8), "vector.motion": (),
    }  # fmt: skip
    assert stored.encoders["vae"]["digest"] == "a" * 64
    expected = null(spec())
    assert {name: value.shape for name, value in stored.null.items()} == {"tokens": (1, 6, 8), "tokens_mask": (1, 6)}
    np.testing.assert_array_equal(stored.null["tokens"][0], expected["tokens"])
    assert captions(whole, "train") == [f"clip {k}" for k in range(24)]
    manifest = verify(whole)
    assert manifest.digest() == manifests.load(whole).digest()


def test_order_and_resume_are_those_of_pixels(whole, tmp_path):
    write_world(tmp_path / "pixels", SpritesConfig(frames=3), 24, val_clips=8)
    pixels = DataConfig(str(tmp_path / "pixels"), 3, 16, 16)
    orders = []
    for config in (data(whole), pixels):
        with make_loader(config, "train", [config.bucket(5)], 3) as loader:
            orders.append([next(loader)["index"].tolist() for _ in range(9)])
    assert orders[0] == orders[1]
    with make_loader(data(whole), "train", [data(whole).bucket(5)], 3) as loader:
        for _ in range(4):
            next(loader)
        state = loader.get_state()
    with make_loader(data(whole), "train", [data(whole).bucket(5)], 3, start=state) as loader:
        assert [next(loader)["index"].tolist() for _ in range(5)] == orders[0][4:]


def test_fewer_frames_are_the_first_ones(whole):
    batch = first_batch(data(whole, frames=2))
    full = first_batch(data(whole))
    np.testing.assert_array_equal(batch["video"], full["video"][:, :2])
    np.testing.assert_array_equal(batch["concat"], full["concat"][:, :2])


def test_packed_clips(whole):
    config = data(whole)
    packed = first_batch(config, buckets=[Bucket(3, 4, 4, 4, pack=(2, 1))], conditions=("tokens",))
    assert packed["video"].shape == (4, 3, 4, 4, 4)
    assert packed["tokens"].shape == (4, 2, 6, 8)
    with pytest.raises(ValueError, match="packed clips cannot have 'concat'"):
        first_batch(config, buckets=[Bucket(3, 4, 4, 4, pack=(2, 1))])


def test_conditions_are_chosen(whole):
    assert first_batch(data(whole), conditions=("tokens",)).keys() == {"video", "fps", "index", "caption", "tokens"}
    with pytest.raises(ValueError, match=r"data.shards: .* holds no 'hint'; it has: tokens, "):
        first_batch(data(whole), conditions=("hint",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flip": True}, "data.flip: True, but .* holds latents"),
        ({"random_start": True}, "data.random_start: True, but .* holds latents"),
        ({"height": 2}, "data.height: 2, but the latents of .* have 4"),
        ({"frames": 4}, "data.frames: 4, but the clips of .* have 3"),
    ],
)
def test_what_latents_cannot_have_done_to_them(whole, changes, message):
    with pytest.raises(ValueError, match=message):
        first_batch(data(whole, **changes))


def test_sets_of_one_run_agree(whole, tmp_path):
    write(tmp_path / "same", spec(frames=1, height=8, width=6, first_frame=True))
    write(tmp_path / "other", spec(first_frame=True, encoders={"vae": {"class": "x", "digest": "c" * 64}}))
    write_world(tmp_path / "pixels", SpritesConfig(frames=3), 8, val_clips=0)
    assert stored_in([whole, tmp_path / "same"]).spec.frames == 3
    with make_loader(
        data(whole), "train", [data(whole).bucket(4), Bucket(1, 8, 6, 4, shards=str(tmp_path / "same"))], 0
    ) as loader:
        assert {batch["concat"].shape for batch in loader.examples()} == {(4, 3, 4, 4, 4), (4, 1, 8, 6, 4)}
    with pytest.raises(ValueError, match="other are unlike those of .*: encoders"):
        stored_in([whole, tmp_path / "other"])
    with pytest.raises(ValueError, match="set holds latents, .*pixels pixels"):
        stored_in([whole, tmp_path / "pixels"])
    assert stored_in([tmp_path / "pixels"]) is None


@pytest.mark.parametrize("stop_after", [0, 1, 3, 7])
def test_broken_off_and_resumed_is_the_same_set(whole, tmp_path, stop_after):
    made, again = spec(first_frame=True), tmp_path / "set"
    with pytest.raises(KeyboardInterrupt):
        write(again, made, shard_bytes=4000, stop_after=stop_after)
    assert not again.exists()
    left = tmp_path / ".set.encode" / "set"
    (left / "clips-train.array_record-00007-of-00009.part").write_bytes(b"half a shard")
    kept = {path.name: path.stat().st_mtime_ns for path in left.glob("clips-*") if path.suffix != ".part"}
    assert len(kept) == stop_after
    manifest = write(again, made, shard_bytes=4000)
    assert files(again) == files(whole)
    assert manifest == manifests.load(whole)
    assert {path.name for path in tmp_path.iterdir()} == {"set"}
    assert {name: (again / name).stat().st_mtime_ns for name in kept} == kept


def test_a_full_disk_is_one_line_and_loses_no_shard(whole, tmp_path, monkeypatch):
    real, count = latent_writer.flush, []

    def full(path):
        count.append(path)
        if len(count) == 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path)

    monkeypatch.setattr(latent_writer, "flush", full)
    with pytest.raises(RunError, match=r"cannot write .*set: No space left on device"):
        write(tmp_path / "set", spec(first_frame=True), shard_bytes=4000)
    monkeypatch.undo()
    write(tmp_path / "set", spec(first_frame=True), shard_bytes=4000)
    assert files(tmp_path / "set") == files(whole)


def test_another_plan_is_not_mixed_in(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "set", shard_bytes=2000, settings={"batch": 2}, stop_after=2)
    with pytest.raises(ValueError, match=r"holds an unfinished set of another kind \(settings.batch: 2 -> 3\)"):
        write(tmp_path / "set", shard_bytes=2000, settings={"batch": 3})
    write(tmp_path / "set", shard_bytes=2000, settings={"batch": 3}, overwrite=True)
    assert manifests.load(tmp_path / "set").settings == {"batch": 3}
    with pytest.raises(ValueError, match="exists already"):
        write(tmp_path / "set", shard_bytes=2000, settings={"batch": 3})


def test_every_process_writes_the_same_bytes():
    """The library's own order of fields differs from process to process."""
    data = spec(first_frame=True).serialize(clip(spec(first_frame=True), 3))
    names = [b"caption", b"concat", b"fps", b"image", b"index", b"labels", b"latents", b"source", b"split", b"start"]
    places = [data.index(b"\n" + bytes([len(name)]) + name) for name in names]
    assert places == sorted(places)


def test_a_finished_set_is_known(tmp_path):
    manifest = write(tmp_path / "set")
    plan = plan_for(spec(), {"train": 24, "val": 8}, {"pipeline": "test"}, {})
    assert finished(tmp_path / "set", plan) == manifest
    assert finished(tmp_path / "set", plan_for(spec(), {"train": 23}, {"pipeline": "test"}, {})) is None
    assert finished(tmp_path / "absent", plan) is None


def test_damage_is_named(tmp_path):
    write(tmp_path / "set")
    (tmp_path / "set" / NULL_FILE).write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"null\.safetensors: damaged"):
        verify(tmp_path / "set")
    (tmp_path / "set" / NULL_FILE).unlink()
    with pytest.raises(RunError, match=r"null\.safetensors: No such file"):
        read_null(tmp_path / "set", manifests.load(tmp_path / "set").clip)


def test_what_does_not_fit_the_set(tmp_path):
    long = {"tokens": np.zeros((7, 8)), "tokens_mask": np.zeros(6, bool)}
    with pytest.raises(ValueError, match="tokens: shape"):
        spec().serialize(dataclasses.replace(clip(spec(), 0), conditions=long))
    with pytest.raises(ValueError, match="latents: shape"):
        spec(frames=2).serialize(clip(spec(), 0))
    with pytest.raises(ValueError, match="conditions: tokens, tokens_mask in a set with"):
        spec(text=False).serialize(clip(spec(), 0))
    with pytest.raises(ValueError, match="dtype: unknown 'float8'"):
        spec(dtype="float8")
    with pytest.raises(RunError, match="not a latent record"):
        spec().deserialize(b"xx")
