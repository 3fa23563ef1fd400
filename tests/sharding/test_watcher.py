"""The watchers by themselves: their processes are pipes that the test holds."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vdm_jax.sharding import watcher

SCRIPT = Path(watcher.__file__)
COMMON = {"count": 3, "pid": 0, "hub_name": "pid 100 on a", "token": "secret", "beat": 0.1, "limit": 30.0}


class Star:
    """Three watchers, the first of them the hub."""

    def __init__(self, stack, limit: float = 30.0):
        common = COMMON | {"limit": limit}
        self.watchers = [start(stack, common | {"index": 0, "name": "pid 100 on a"})]
        self.port = int(self.watchers[0].stdout.readline().split()[1])
        where = {"host": "127.0.0.1", "port": self.port}
        self.watchers += [start(stack, common | where | {"index": i, "name": f"pid 10{i} on a"}) for i in (1, 2)]
        assert [w.stdout.readline() for w in self.watchers[1:]] == ["joined\n", "joined\n"]
        time.sleep(0.2)  # for the hub to hear their first line

    def ends(self, *quiet: int) -> list[str]:
        """What the watchers said to people; those of `quiet` must not have told their process to end."""
        said = []
        for index, process in enumerate(self.watchers):
            out, error = process.communicate(timeout=30)
            said.append(error)
            assert ("lost" in out) == (index not in quiet), (index, out, error)
        return said


def start(stack, options: dict) -> subprocess.Popen:
    command = [sys.executable, "-I", "-S", str(SCRIPT), json.dumps(options)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = stack.enter_context(subprocess.Popen(command, text=True, **pipes))
    stack.callback(process.kill)
    return process


@pytest.fixture
def stack():
    with contextlib.ExitStack() as stack:
        yield stack


def test_all_leave_and_nobody_says_a_word(stack):
    star = Star(stack)
    for process in star.watchers:
        process.stdin.write("left\n")
        process.stdin.flush()
    assert star.ends(0, 1, 2) == ["", "", ""]
    assert [process.returncode for process in star.watchers] == [0, 0, 0]


@pytest.mark.parametrize("victim", [0, 1])
def test_the_others_say_who_died(stack, victim):
    star = Star(stack)
    begin = time.monotonic()
    star.watchers[victim].stdin.close()
    star.watchers[victim].stdin = None
    time.sleep(0.3)  # for the others' processes to be told, before their pipes close too
    said = star.ends(victim)
    line = f"vdm: multihost: process {victim} of 3 (pid 10{victim} on a) died\n"
    assert said == ["" if index == victim else line for index in range(3)]
    assert time.monotonic() - begin < 10


def test_an_error_is_passed_on_in_its_own_words(stack):
    star = Star(stack)
    star.watchers[2].stdin.write("failed checkpoints: the disk is full\n")
    star.watchers[2].stdin.flush()
    time.sleep(0.3)
    said = star.ends(2)
    line = "vdm: multihost: process 2 of 3 (pid 102 on a) ended: checkpoints: the disk is full\n"
    assert said == [line, line, ""]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_watcher_that_dies_with_its_process_is_noticed(stack, victim):
    star = Star(stack)
    star.watchers[victim].kill()
    time.sleep(0.3)
    said = star.ends(victim)
    assert all(f"process {victim} of 3" in said[i] and "died" in said[i] for i in range(3) if i != victim)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_machine_that_goes_silent_is_given_up(stack, victim):
    star = Star(stack, limit=0.6)
    star.watchers[victim].send_signal(signal.SIGSTOP)
    time.sleep(1.5)
    others = [process for index, process in enumerate(star.watchers) if index != victim]
    for process in others:
        _, error = process.communicate(timeout=30)
        assert f"process {victim} of 3 (pid 10{victim} on a) gave no sign of life for 0.6 s" in error


def test_two_that_die_one_after_the_other_give_the_first(stack):
    """A process that JAX ends because its coordinator is gone still says who was the first."""
    star = Star(stack)
    for index in (1, 0, 2):
        star.watchers[index].stdin.close()
        star.watchers[index].stdin = None
        time.sleep(0.1)
    said = [process.communicate(timeout=30)[1] for process in star.watchers]
    assert said[1] == ""
    assert all("process 1 of 3" in said[index] for index in (0, 2))


def test_strangers_are_not_heard(stack):
    star = Star(stack)
    for words in (b"hello wrong 1 me\ndied\n", b"died\n", b"GET / HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", star.port)) as stranger:
            stranger.sendall(words)
            assert stranger.recv(1) == b""
    assert all(process.poll() is None for process in star.watchers)


def test_who_cannot_reach_the_hub_says_so(stack):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        where = {"host": "127.0.0.1", "port": unused.getsockname()[1]}
        lonely = start(stack, COMMON | where | {"index": 1, "name": "pid 101 on a"})
        assert re.match("alone .*refused", lonely.communicate(timeout=30)[0])


HANGING = """
import json, os, subprocess, sys, time
options = json.loads(sys.argv[2]) | {"pid": os.getpid()}
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
subprocess.Popen([sys.executable, "-I", "-S", sys.argv[1], json.dumps(options)], **pipes)
time.sleep(600)
"""


def test_a_process_that_does_not_end_by_itself_is_ended(stack):
    hub = start(stack, COMMON | {"index": 0, "name": "pid 100 on a", "count": 2})
    where = {"host": "127.0.0.1", "port": int(hub.stdout.readline().split()[1]), "index": 1, "name": "pid 1 on a"}
    command = [sys.executable, "-c", HANGING, str(SCRIPT), json.dumps(COMMON | where)]
    hanging = stack.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    stack.callback(hanging.kill)
    time.sleep(1.0)
    hub.stdin.close()
    assert hanging.wait(timeout=watcher.LINGER + 10) == -signal.SIGKILL
