"""Tuning of the splash kernels: schedules are read as libtpu writes them, and the ranking is the formula it says."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import tune_splash
from bench import schedules

from vdm_jax.attention.splash_blocks import BLOCKS, Tile

TABLE = """Schedule of a program
== CAPACTIY:
MXU, VALU, EUP, VSTORE:SPILL
    2     4     1     1
== UTILIZATION:
0 1 0 0
2 3 0 1
1 0 1 0
1 0 0 0
"""
WORK = tune_splash.Work(queries=1000, keys=3000, heads=3, head_dim=128)


def test_a_schedule_is_a_line_per_cycle():
    got = schedules.parse(TABLE)
    assert got.cycles == 4
    assert got.busy == {"MXU": 4 / 8, "VALU": 4 / 16, "EUP": 1 / 4, "VSTORE:SPILL": 1 / 4}


def test_a_prediction_is_cycles_or_streaming_times_steps(monkeypatch, tmp_path):
    tile, cycles = Tile(512, 1024, 512), 35_000
    monkeypatch.setattr(schedules, "schedule", lambda *_: schedules.parse(TABLE.rstrip() + "\n0 0 0 0" * (cycles - 4)))
    seconds, remark = tune_splash.predict(tmp_path, "v5p", "forward", tile, WORK)
    clock = 459e12 / 2 / 2**17
    assert seconds == pytest.approx(3 * 2 * 3 / 2 * cycles / clock)  # two blocks of queries, three of keys, two cores
    assert remark.startswith("35000 cycles a step: MXU 0%")
    cycles = 4
    seconds, _ = tune_splash.predict(tmp_path, "v6e", "backward", tile, WORK)
    operand = 512 * 128 * 2 / 1638e9
    assert seconds == pytest.approx(3 * 2 * 3 * (3 * operand + operand))


def test_the_fastest_comes_first_and_what_does_not_fit_is_left_out(capsys):
    def seconds(chip, name, tile, work):
        if tile.q == 256:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: ran out of vmem")
        return tile.kv / 1000, "as given"

    tiles = [Tile(128, 512, 128), Tile(256, 512, 128), Tile(128, 256, 128)]
    figures = tune_splash.rank("v6e", "forward", tiles, seconds, tune_splash.Work(4096, 4096, 1, 128))
    assert [f.name for f in figures] == ["splash/v6e/forward/128x256x128", "splash/v6e/forward/128x512x128"]
    assert figures[0].value == 256
    assert "256x512x128  does not fit" in capsys.readouterr().out


def test_other_failures_of_the_compiler_are_not_hidden():
    def seconds(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        tune_splash.rank("v6e", "forward", [Tile(128, 128, 128)], seconds, WORK)


def test_what_is_timed_is_the_kernel_on_all_of_the_work(monkeypatch):
    program = tune_splash.program
    asked = []

    def interpreted(name, tile, work):
        step, shapes = program(name, tile, work, interpret=True)
        asked.append((name, tile, [x.shape for x in shapes]))
        return step, shapes

    monkeypatch.setattr(tune_splash, "program", interpreted)
    small = tune_splash.Work(queries=128, keys=256, heads=1, head_dim=8)
    for name in tune_splash.PRODUCTS:
        seconds, remark = tune_splash.measure("v5p", name, Tile(128, 128, 128), small, repeats=3)
        assert 0 < seconds < 60
        assert remark == "median of 3"
    assert asked[0][2] == [(1, 1, 128, 8), (1, 1, 256, 8), (1, 1, 256, 8)]
    assert asked[1][2][3:] == [(1, 1, 128), (1, 1, 128), (1, 1, 128, 8)]


def test_the_table_is_within_what_is_tried():
    tried = set(tune_splash.candidates())
    assert set(BLOCKS) == set(tune_splash.CORES)
    for blocks in BLOCKS.values():
        assert {blocks.forward, blocks.backward} <= tried


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--chip", "v5"], "--chip: unknown 'v5'; did you mean 'v5"), (["--passes", "back"], "--passes: unknown 'back'")],
)
def test_wrong_names_are_named(monkeypatch, capsys, options, message):
    monkeypatch.setattr(sys, "argv", ["tune_splash", *options])
    assert tune_splash.main() == 2
    assert message in capsys.readouterr().err


def test_a_chip_that_is_not_there(tmp_path):
    """A process of its own: libtpu is told where to write before it is loaded."""
    pytest.importorskip("libtpu")
    script = Path(tune_splash.__file__)
    file = tmp_path / "figures.json"
    command = [sys.executable, str(script), "--quick", "--chip", "v5p", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    names = {f"splash/v5p/{name}/{tile}" for name in tune_splash.PRODUCTS for tile in ("128x256x128", "256x256x256")}
    assert {f["name"] for f in figures} == names
    assert all(0 < f["value"] < 10_000 for f in figures)
    assert "cycles a step: MXU" in done.stdout
