"""Worker processes: the batches of the read threads, none that outlives its parent, none that is killed unnoticed."""

import dataclasses
import itertools
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from data_pipelines.loading import workers
from data_pipelines.loading.loader import DataConfig, make_loader
from data_pipelines.shards.reader import ClipSource
from vdm_jax.errors import RunError


@pytest.fixture
def config(shards):
    return DataConfig(str(shards), 8, 16, 16, random_start=True, flip=True, workers=2, prefetch_batches=2)


def opened(config, **options):
    return make_loader(config, "train", [config.bucket(6)], 3, **options)


def same(first, second):
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids, seconds=20.0) -> bool:
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, pids))


def test_batches_are_those_of_threads_whoever_is_killed(config, caplog):
    with opened(dataclasses.replace(config, workers=0)) as threads:
        expected = [next(threads) for _ in range(12)]
    with opened(config, start=2) as loader:
        same([next(loader) for _ in range(2)], expected[2:4])
        killed, other = loader._reading.pids
        os.kill(killed, signal.SIGKILL)
        with caplog.at_level(logging.WARNING):
            same([next(loader) for _ in range(8)], expected[4:])
        assert loader.get_state().next_index == 12
        assert f"(process {killed}) was killed by SIGKILL at batch" in caplog.text
        assert "another takes its place" in caplog.text
        last = loader._reading.pids
        assert other in last
        assert killed not in last
    assert gone(last)


def test_a_worker_that_is_killed_over_and_over_ends_the_run(config, monkeypatch, caplog):
    monkeypatch.setattr(workers, "_serve", _killed)
    monkeypatch.setattr(workers, "_TRIES", 2)
    with opened(dataclasses.replace(config, workers=1)) as loader:
        for _ in range(2):  # and goes on being an error
            with pytest.raises(
                RunError, match=r"worker 0 .* was killed by SIGKILL at batch 0, as were the 1 before it"
            ):
                next(loader)
    assert caplog.text.count("another takes its place") == 1


def _killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_worker_finds_wrong_is_one_line(config, own_shards):
    """Of two clips that are damaged one is replaced and counted, the other is too many."""
    path = next(own_shards.glob("*train*"))
    data = bytearray(path.read_bytes())
    written, found = np.flatnonzero(np.frombuffer(data, np.uint8)), []  # between records there is padding
    for place in (written[len(written) // 3], written[2 * len(written) // 3]):
        data[place] ^= 0xFF
        path.write_bytes(data)
        found.append(unreadable(own_shards))
    assert [len(bad) for bad in found] == [1, 2]
    changes = {"workers": 1, "shards": str(own_shards), "on_damage": "substitute", "damage_budget": 1, "flip": False}
    with opened(dataclasses.replace(config, **changes), shuffle=False) as loader:
        first = next(index for index in range(24) if index in found[1]) // 6
        for _ in range(first + 1):
            next(loader)
        assert [sorted(clips) for clips in loader.damaged.values()] == [found[0]]
        with pytest.raises(RunError, match="2 damaged clips, more than damage_budget=1; the last: .* is damaged"):
            list(itertools.islice(loader, 4))


def unreadable(shards):
    source, bad = ClipSource(shards, "train"), []
    for index in range(24):
        try:
            source.record(index)
        except RunError:
            bad.append(index)
    return bad


def test_a_tokenizer_that_cannot_be_sent_is_named(config):
    with pytest.raises(ValueError, match=r"data.workers: 2, but processes cannot be sent this: .*lambda"):
        opened(config, tokenizer_fn=lambda captions: {})


def test_no_worker_outlives_a_killed_parent(shards, tmp_path):
    """Also where nobody has parsed absl's flags."""
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(f"""
        import time
        from data_pipelines.loading.loader import DataConfig, make_loader

        if __name__ == "__main__":
            config = DataConfig({str(shards)!r}, 8, 16, 16, workers=1, prefetch_batches=1)
            loader = make_loader(config, "train", [config.bucket(6)], 3)
            next(loader), next(loader)
            print(*loader._reading.pids, flush=True)
            time.sleep(600)
        """)
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    (worker,) = [int(word) for word in parent.stdout.readline().split()]
    assert alive(worker)
    parent.kill()
    parent.wait(20)
    assert gone([worker])
