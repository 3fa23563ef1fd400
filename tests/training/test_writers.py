"""Writers: what is written can be read back by the tools it is meant for, and no curve forks on resume."""

import io
import json
import os
import sys
import time
import types

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from tests.training.read_only import read_only_folder
from vdm_jax.errors import RunError
from vdm_jax.training.run_directory import RunDirectory
from vdm_jax.training.writers import JsonlWriter, MultiWriter, TensorBoardWriter, WandbWriter, open_writer

VIDEO = np.random.default_rng(0).integers(0, 255, (2, 5, 12, 16, 3), np.uint8)


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_back(directory) -> EventAccumulator:
    events = EventAccumulator(str(directory), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


def test_jsonl_holds_one_object_a_line(tmp_path):
    writer = JsonlWriter(tmp_path / "m.jsonl")
    writer.write_scalars(5, {"loss": np.float32(0.1), "skipped": 0})
    writer.write_scalars(10, {"loss": float("nan")})
    writer.flush()
    writer.close()
    first, second = lines(tmp_path / "m.jsonl")
    assert first == {"step": 5, "loss": float(np.float32(0.1)), "skipped": 0.0}
    assert np.isnan(second["loss"])


@pytest.mark.parametrize("tail", ["", '{"step": 12, "lo', '{"step": 30, "loss": 1.0}\n{'])
def test_jsonl_forgets_what_comes_after_the_restored_step(tmp_path, tail):
    path = tmp_path / "m.jsonl"
    path.write_text("".join(f'{{"step": {step}, "loss": {step / 7}}}\n' for step in (3, 6, 9, 12)) + tail)
    before = path.read_text().splitlines()[:3]
    writer = JsonlWriter(path, after=10)
    writer.write_scalars(12, {"loss": 0.5})
    writer.close()
    assert path.read_text().splitlines() == [*before, '{"step": 12, "loss": 0.5}']


def test_jsonl_begins_anew_without_a_checkpoint(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"step": 3, "loss": 1.0}\n')
    JsonlWriter(tmp_path / "m.jsonl", after=0).close()
    assert (tmp_path / "m.jsonl").read_text() == ""


def test_jsonl_damaged_in_the_middle_is_one_line(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"step": 3}\n{"st\n{"step": 9}\n')
    with pytest.raises(RunError, match=r"line 2 of .*m\.jsonl is damaged"):
        JsonlWriter(tmp_path / "m.jsonl", after=20)
    assert (tmp_path / "m.jsonl").read_text().count("\n") == 3


def test_jsonl_and_summaries_on_a_read_only_disk_are_one_line():
    with read_only_folder() as folder:
        with pytest.raises(RunError, match=r"metrics: cannot write .*m\.jsonl: Permission denied"):
            JsonlWriter(folder / "m.jsonl")
        with pytest.raises(RunError, match="summaries: cannot write .*tb: Permission denied"):
            TensorBoardWriter(folder / "tb")


def test_jsonl_on_a_full_disk_is_one_line(tmp_path):
    writer = JsonlWriter(tmp_path / "m.jsonl")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, writer._file)
    with pytest.raises(RunError, match=r"metrics: cannot write .*m\.jsonl: No space left on device"):
        writer.write_scalars(1, {"loss": 1.0})
    os.close(full)
    writer.close()


def test_a_line_that_does_not_fit_is_an_error_now_and_removed_on_resume(tmp_path, monkeypatch):
    path = tmp_path / "m.jsonl"
    writer = JsonlWriter(path)
    writer.write_scalars(1, {"loss": 1.0})
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, line: write(file, line[:9]))  # the disk had nine bytes left
        with pytest.raises(RunError, match="the disk is full"):
            writer.write_scalars(2, {"loss": 2.0})
    writer.close()
    JsonlWriter(path, after=5).close()
    assert lines(path) == [{"step": 1, "loss": 1.0}]


def test_tensorboard_reads_everything_back(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    writer.write_scalars(1, {"loss": 0.25})
    writer.write_scalars(2, {"loss": 0.125})
    writer.write_images(2, {"grid": VIDEO[:, 0]})
    writer.write_videos(2, {"samples": VIDEO}, fps=10.0)
    writer.write_texts(2, {"prompt": "a red square"})
    writer.write_hparams({"train": {"lr": 0.1, "betas": [0.9, 0.99]}, "name": "x", "text": None})
    writer.close()
    events = read_back(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 0.25), (2, 0.125)]
    for index in range(2):
        (image,) = events.Images(f"grid/{index}")
        decoded = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
        np.testing.assert_array_equal(decoded, VIDEO[index, 0])
        (video,) = events.Images(f"samples/{index}")
        gif = Image.open(io.BytesIO(video.encoded_image_string))
        assert (gif.n_frames, gif.size, gif.info["duration"], gif.info["loop"]) == (5, (16, 12), 100, 0)
        assert (video.width, video.height) == (16, 12)
    (text,) = events.Tensors("prompt")
    assert text.tensor_proto.string_val == [b"a red square"]
    assert events.SummaryMetadata("prompt").plugin_data.plugin_name == "text"
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["train.lr"].number_value == 0.1
    assert hparams["train.betas"].string_value == "[0.9, 0.99]"
    assert hparams["text"].string_value == "null"


def test_tensorboard_forgets_what_comes_after_the_restored_step(tmp_path):
    first = TensorBoardWriter(tmp_path)
    for step in (5, 10, 15):
        first.write_scalars(step, {"loss": float(step)})
    first.close()
    second = TensorBoardWriter(tmp_path, after=10)
    second.write_scalars(15, {"loss": -15.0})
    second.close()
    assert [(e.step, e.value) for e in read_back(tmp_path).Scalars("loss")] == [(5, 5.0), (10, 10.0), (15, -15.0)]


def test_no_tensorflow_is_needed():
    assert "tensorflow" not in sys.modules


def test_a_run_has_both_and_resumes_both(tmp_path):
    with RunDirectory(tmp_path, {"seed": 0}) as run:
        for after, step in ((0, 4), (4, 8), (4, 8)):
            begun = int(time.time())
            writer = open_writer(run, after)
            writer.write_scalars(step, {"loss": 1.0})
            writer.flush()
            writer.close()
            while int(time.time()) == begun:  # files of one second are numbered, and read in the order ..., 10, 9
                time.sleep(0.05)
        assert [line["step"] for line in lines(run.metrics)] == [4, 8]
        assert [e.step for e in read_back(run.tensorboard).Scalars("loss")] == [4, 8]


def test_wandb_that_is_not_installed_is_a_usage_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="wandb: 'videos' asked for, but wandb is not installed"):
        WandbWriter("videos", tmp_path)


class FakeRun:
    """Takes the calls of a wandb run and keeps them."""

    def __init__(self, **settings):
        self.settings, self.logged, self.finished = settings, [], False
        self.config = types.SimpleNamespace(update=lambda values, allow_val_change: self.logged.append(values))

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    runs = []

    def init(**settings):
        runs.append(FakeRun(**settings))
        return runs[-1]

    fake = types.ModuleType("wandb")
    fake.runs, fake.init = runs, init
    fake.Image = lambda array: ("image", array.shape)
    fake.Video = lambda stream, format: (format, Image.open(stream).n_frames)
    fake.Html = lambda text: text
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    return fake


def test_wandb_gets_everything_under_one_id_per_run_directory(tmp_path, wandb):
    writers = [WandbWriter("videos", tmp_path / name) for name in ("a", "a", "b")]
    first, again, other = (run.settings["id"] for run in wandb.runs)
    assert first == again != other
    writer = MultiWriter(writers[:1])
    writer.write_scalars(3, {"loss": 1.0})
    writer.write_images(3, {"grid": VIDEO[:, 0]})
    writer.write_videos(3, {"samples": VIDEO})
    writer.write_texts(3, {"prompt": "a red square"})
    writer.write_hparams({"train": {"lr": 0.1}})
    writer.close()
    run = wandb.runs[0]
    assert run.logged == [
        (3, {"loss": 1.0}),
        (3, {"grid": [("image", (12, 16, 3))] * 2}),
        (3, {"samples": [("gif", 5)] * 2}),
        (3, {"prompt": "<pre>a red square</pre>"}),
        {"train.lr": 0.1},
    ]
    assert run.finished
