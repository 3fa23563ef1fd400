"""Processes of a run that die, fail or hang: the others end with their name, whatever they are doing."""

import os
import re
import signal
import time

import pytest

from tests.processes import together

PROGRAM = """
import os, sys, time
import jax, numpy as np
from jax.experimental import multihost_utils
from vdm_jax.sharding import joined, wait_for_all

mine = jax.process_index
with joined() as several:
    assert several and jax.process_count() == 3
    wait_for_all("start")
    print("ready", flush=True)
    if sys.argv[1] == "sleep" and mine() == 2:
        time.sleep(600)
    for turn in range(20 if sys.argv[1] == "end" else 10**9):
        if sys.argv[1] == "fail" and mine() == 1 and turn == 5:
            raise ValueError("step 5: the disk is full")
        multihost_utils.process_allgather(np.float32(turn))
        time.sleep(0.01)
print("done", flush=True)
"""


@pytest.fixture
def three(tmp_path):
    def start(mode):
        return together(["-c", PROGRAM, mode], 3, tmp_path)

    return start


def ready(group) -> bool:
    return all("ready" in group.said(index) for index in range(3))


def test_all_that_end_well_say_nothing(three):
    with three("end") as group:
        group.finish()
        assert all("done" in group.said(index) and "multihost" not in group.said(index) for index in range(3))


@pytest.mark.parametrize(("victim", "mode"), [(0, "work"), (1, "sleep")])
def test_a_killed_process_is_named_by_all_others(three, victim, mode):
    """Also by one that waits for something else, and where the coordinator of JAX itself is gone."""
    with three(mode) as group:
        group.wait_until(lambda: ready(group))
        time.sleep(0.3)
        os.kill(group[victim].pid, signal.SIGKILL)
        begin = time.monotonic()
        others = [index for index in range(3) if index != victim]
        assert all(group[index].wait(60) != 0 for index in others)
        assert time.monotonic() - begin < 30
        line = rf"vdm: multihost: process {victim} of 3 \(pid {group[victim].pid} on \S+\) died\n"
        deadline = time.monotonic() + 10  # where JAX was faster, the watcher has the last word
        for index in others:
            while not re.search(line, group.said(index)):
                assert time.monotonic() < deadline, group.said(index)
                time.sleep(0.1)


def test_an_error_reaches_the_others_in_its_own_words(three):
    with three("fail") as group:
        group.wait_until(lambda: ready(group))
        status = group.wait(60)
        assert 0 not in status
        assert "ValueError: step 5: the disk is full" in group.said(1)
        for index in (0, 2):
            line = r"vdm: multihost: process 1 of 3 \(pid \d+ on \S+\) ended: step 5: the disk is full\n"
            assert re.search(line, group.said(index)), group.said(index)
