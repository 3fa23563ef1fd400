"""The pieces of tools/bench_scale: the table keeps what is not measured again, minima are the formulas, bars bar."""

import dataclasses
from types import SimpleNamespace

import bench_scale
import jax
import pytest
from bench import scale_attention, scale_memory, scale_steps
from bench.options import Options

from tests.planning.small_run import small_trace
from vdm_jax.media.figures import Figure
from vdm_jax.planning.collectives import wire_bytes
from vdm_jax.planning.plan import calculated_plan
from vdm_jax.sharding import MeshConfig, make_mesh


def test_the_table_replaces_rows_of_the_same_name_and_keeps_the_others(tmp_path):
    path = tmp_path / "scale.md"
    bench_scale.write_table(
        path, [Figure("a", 1.0, "GiB", 2.0, 0.5, ok=True, command="x"), Figure("b", True, command="x")]
    )
    bench_scale.write_table(path, [Figure("c", 3.0, command="y"), Figure("a", 12345.678, "GiB", ok=False, command="y")])
    text = path.read_text()
    assert text.startswith(bench_scale.HEAD)
    assert text.removeprefix(bench_scale.HEAD).splitlines() == [
        "| a | 1.235e+04 | GiB |  |  | **no** | `y` |",
        "| b | true |  |  |  |  | `x` |",
        "| c | 3 |  |  |  |  | `y` |",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "atention"], "--only: unknown 'atention'; did you mean 'attention'"),
        (["--only", "steps", "--case", "v4"], "--case: no case of steps has 'v4' in its name"),
    ],
)
def test_wrong_names_are_one_line(monkeypatch, capsys, words, message):
    monkeypatch.setattr("sys.argv", ["bench_scale", "--quick", *words])
    assert bench_scale.main() == 2
    assert message in capsys.readouterr().err


def test_the_blockwise_kernel_is_flat_and_a_whole_matrix_is_not(monkeypatch, capsys):
    monkeypatch.setattr(scale_memory, "LENGTHS", (1024, 4096))
    monkeypatch.setattr("sys.argv", ["bench_scale", "--quick", "--only", "chunked"])
    assert bench_scale.main() == 0
    assert "chunked/4096_tokens/each" in capsys.readouterr().out
    attend = scale_memory.attend
    monkeypatch.setattr(scale_memory, "attend", lambda *x, kernel, **o: attend(*x, kernel="reference", **o))
    assert [f.ok for f in scale_memory.measure(Options()) if f.ok is not None] == [True, False]


@pytest.mark.parametrize(
    ("name", "devices", "shards"),
    [("ulysses", 8, 8 * 7 / 8), ("ring", 8, 6 * 7), ("ring", 512, 6 * 511), ("hybrid", 512, 8 * 63 / 64 + 6 * 7)],
)
def test_the_least_is_the_formula(name, devices, shards):
    shard = 2 * scale_attention.TOKENS * scale_attention.HEADS * scale_attention.HEAD_DIM
    assert scale_attention.least(name, devices) == pytest.approx(shards * shard)


def test_what_is_sent_is_what_is_compiled(monkeypatch):
    """Eight fake devices; their kernel is another, the exchange is the same (in float32 there: twice the bytes)."""
    monkeypatch.setattr(scale_attention, "TOKENS", 8)
    mesh = make_mesh(MeshConfig(data=1, context=8), jax.devices())
    bytes_sent = scale_attention.sent(scale_attention._exchange("ulysses", 8), mesh)
    least = scale_attention.least("ulysses", 8)
    assert least <= bytes_sent <= 2.1 * least
    assert scale_attention._figure("ulysses", 8, 1.06 * least, least).ok is False


def test_bars_of_a_step_hold_it_to_its_peer(capsys):
    traced = small_trace("h100:8")
    plan = calculated_plan(traced)
    plan = dataclasses.replace(plan, compiled=SimpleNamespace(seconds=1.0))
    free = scale_steps.Case("ours", "h100:8", {})
    figures = {f.name: f for f in scale_steps.figures_of(free, plan)}
    assert figures["steps/ours/fits"].value is True
    assert [f.ok for f in figures.values()] == [True, None, None, None, None, None, None]
    got = figures["steps/ours/wire"].value
    assert got == pytest.approx(wire_bytes(plan.found) / 2**30)
    peer = scale_steps.Peer(2 * got, 1.0, at_most_wire=0.9 * got, at_most_peak=1e9, least_mfu=1.1)
    barred = scale_steps.figures_of(dataclasses.replace(free, peer=peer), plan)
    assert {f.name.rpartition("/")[2]: f.ok for f in barred if f.ok is not None} == {
        "fits": True, "wire": False, "peak": True, "mfu": False,
    }  # fmt: skip
    assert next(f for f in barred if f.name.endswith("wire")).ratio == pytest.approx(0.5)
    assert "--case 'ours'" in barred[0].command
    too_large = dataclasses.replace(plan, too_large=ValueError("12 GiB too much"), compiled=None)
    assert scale_steps.figures_of(free, too_large)[0].ok is False
    assert "does not fit: 12 GiB too much" in capsys.readouterr().out


def test_every_case_is_a_config_that_its_machine_takes():
    """Whatever `quick` shrinks, a case keeps its machine, its mesh and its batch."""
    found = {case.name: case for case in scale_steps.cases(quick=False)}
    assert len(found) == 11
    for small in scale_steps.cases(quick=True):
        whole = found[small.name]
        assert (small.target, small.slices, small.peer) == (whole.target, whole.slices, None)
        assert {k: v for k, v in small.changes.items() if k.startswith(("mesh", "train"))} == {
            k: v for k, v in whole.changes.items() if k.startswith(("mesh", "train"))
        }
