"""The smallest run there is: sixteen channels, four frames of 16x16, six steps."""

from vdm_jax.cli.main import main

CAPTIONED, SILENT = "captioned.py", "silent.py"
TEXT = '{"vocab_size": 300, "length": 8, "dim": 16, "depth": 1, "heads": 2}'
CONFIG = """
import ml_collections


def get_config():
    return ml_collections.ConfigDict(
        {{
            "process": {{"kind": "rectified_flow", "prediction": "x0"}},
            "model": {{"kind": "dit", "patch": (2, 4, 4), "dim": 16, "depth": 1, "heads": 2}},
            "text": {text},
            "data": {{"shards": {shards!r}, "frames": 4, "height": 16, "width": 16}},
            "train": {{"steps": 6, "batch_size": 8, "dropout": {dropout}, "eval_batches": 1}},
            "ema": {{"decays": (0.9,)}},
            "optimizer": {{"learning_rate": 1e-3, "warmup": 2}},
            "checkpoint": {{"every": 3, "keep": 2}},
            "log": {{"every": 2, "eval_every": 6, "sample_every": None}},
            "sample": {{"steps": 2, "guidance": 2.0, "ema": 0.9}},
        }}
    )
"""


def write_shards(path):
    """24 clips to train on and 8 held out."""
    words = ["--clips", "24", "--val-clips", "8", "--frames", "4"]
    assert main(["worlds", "sprites", "--out", str(path), *words]) == 0


def write_config(path, shards, captions):
    """A config file, with or without a text encoder."""
    text, dropout = (TEXT, '{"tokens": 0.1}') if captions else (None, "{}")
    path.write_text(CONFIG.format(text=text, dropout=dropout, shards=str(shards)))


def train(folder, config, workdir, *more):
    """`vdm train` with a config of the workshop; the exit status."""
    return main(["train", "--config", str(folder / config), "--workdir", str(folder / workdir), *more])


def refused(capsys, words, status=2):
    """The one line that a command fails with."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == status
    shown = capsys.readouterr().err
    last = shown.rstrip("\n").rpartition("\n")[2]
    assert last.startswith("vdm: ")
    assert "Traceback" not in shown
    assert "unexpected" not in last
    return last
