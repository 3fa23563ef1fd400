"""`vdm train` on a mixture (two sets, two buckets, weights that change) that dies and is gone on with: the
clips and the losses are those of one run, bit for bit, and no clip comes again before all of its set have come."""

import collections
import json
import shutil

import numpy as np
import pytest

from data_pipelines.shards.reader import ClipSource
from tests.cli.micro_run import SILENT, train
from vdm_jax.cli import train as train_cli
from vdm_jax.cli.inspect_run import committed_steps
from vdm_jax.cli.main import main

STEPS, SAVED, CHANGE = 9, 5, 6
SETS = {"films": 12, "cartoons": 20}  # clips of each
BUCKETS = [
    {"frames": 4, "height": 16, "width": 16, "batch": 8, "weight": 2},
    {"frames": 2, "height": 16, "width": 16, "batch": 16},
]


@pytest.fixture(scope="module")
def mixture(workshop, tmp_path_factory):
    """Options of the run; and first picture -> (set, number) of every clip."""
    folder = tmp_path_factory.mktemp("mixture")
    numbers = {}
    for seed, (name, clips) in enumerate(SETS.items()):
        words = ["--clips", str(clips), "--val-clips", "0", "--frames", "4", "--seed", str(seed)]
        assert main(["worlds", "sprites", *words, "--out", str(folder / name)]) == 0
        source = ClipSource(folder / name, "train")
        numbers |= {shown(source[k]["video"]): (name, k) for k in range(clips)}
    assert len(numbers) == sum(SETS.values())
    schedule = [{"step": CHANGE, "weights": {"films": 1, "cartoons": 3}}]
    options = {
        "data.sets": {name: str(folder / name) for name in SETS},
        "data.shards": str(folder / "films"),
        "data.weights": {"films": 3, "cartoons": 1},
        "data.schedule": schedule,
        "data.buckets": BUCKETS,
        "log.every": 1,
        "log.eval_every": None,
        "optimizer.schedule": "constant",
        "checkpoint.every": SAVED,
        "compile.keep_programs": True,  # which spares the second start most of its time
    }
    return [f"--config.{name}={value}" for name, value in options.items()], numbers


def shown(video) -> bytes:
    """A clip's first picture, as the loader hands it out."""
    return np.asarray(video[0]).tobytes()


@pytest.fixture
def seen(monkeypatch):
    """Every batch that training takes."""
    taken, original = [], train_cli._Batches.__next__

    def noted(self):
        batch = original(self)
        taken.append(np.array(batch["video"]))
        return batch

    monkeypatch.setattr(train_cli._Batches, "__next__", noted)
    return taken


def losses(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def test_a_mixture_is_gone_on_with_bit_for_bit(workshop, mixture, seen, tmp_path):
    options, numbers = mixture
    assert train(workshop, SILENT, tmp_path / "whole", *options, f"--config.train.steps={STEPS}") == 0
    whole = list(seen)
    seen.clear()
    shutil.copytree(tmp_path / "whole", tmp_path / "died")  # as if it had died in step 8: two steps are done again
    metrics = tmp_path / "died" / "metrics.jsonl"
    metrics.write_text("".join(line for line in metrics.open() if json.loads(line)["step"] <= 7))
    assert sorted(committed_steps(tmp_path / "died" / "checkpoints")) == [SAVED, STEPS]
    shutil.rmtree(tmp_path / "died" / "checkpoints" / str(STEPS))
    assert train(workshop, SILENT, tmp_path / "died", *options, f"--config.train.steps={STEPS}") == 0
    assert [batch.tobytes() for batch in seen] == [batch.tobytes() for batch in whole[SAVED:]]
    assert losses(tmp_path / "died") == losses(tmp_path / "whole")
    assert sorted(losses(tmp_path / "whole")) == list(range(1, STEPS + 1))

    counts = {frames: {name: [0] * clips for name, clips in SETS.items()} for frames in (4, 2)}
    for step, batch in enumerate(whole):
        clips = [numbers[shown(clip)] for clip in batch]
        for name, number in clips:
            counts[batch.shape[1]][name][number] += 1
        share, quarter = collections.Counter(name for name, _ in clips), len(clips) // 4
        assert share["films"] == (3 * quarter if step < CHANGE else quarter)
        for by_set in counts.values():  # exactly once an epoch: no clip twice more often than another of its set
            assert all(max(times) - min(times) <= 1 for times in by_set.values())
    assert sum(batch.shape[1] == 4 for batch in whole) == 2 * STEPS // 3
    assert min(counts[4]["films"]) >= 1
