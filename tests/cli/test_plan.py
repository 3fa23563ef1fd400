import json

import pytest

from tests.cli.micro_run import CAPTIONED, refused
from vdm_jax.cli.main import main


def plan(workshop, *words):
    return main(["plan", "--config", str(workshop / CAPTIONED), *map(str, words)])


def test_a_plan_is_printed_written_and_dumped(workshop, tmp_path, capsys):
    text, figures = tmp_path / "step.hlo", tmp_path / "plan.json"
    words = ("--target", "cpu:8", "--config.mesh.fsdp=2", "--dump-hlo", text, "--json", figures)
    assert plan(workshop, *words) == 0
    page = capsys.readouterr().out
    assert "cpu:8: 8 devices as data 4 x fsdp 2" in page
    assert "on the wire" in page
    assert text.read_text().startswith("HloModule")
    rows = {row["name"]: row for row in json.loads(figures.read_text())}
    assert rows["mesh"]["value"] == "data 4 x fsdp 2 x context 1 x tensor 1"
    assert rows["collectives/total"]["value"] > 0
    assert set(rows["fits"]) == {"name", "value", "unit", "peer", "ratio", "n", "spread", "ok", "command"}


def test_a_gpu_plan_with_samples(workshop, capsys):
    assert plan(workshop, "--target", "h200:8", "--samples", "1e6") == 0
    page = capsys.readouterr().out
    assert "1,000,000 clips take" in page
    assert "calculated, not compiled" in page


def test_what_could_be_compiled_can_be_calculated(workshop, capsys, monkeypatch):
    monkeypatch.setattr("vdm_jax.planning.plan.compile_step", None)
    assert plan(workshop, "--target", "v5p:2x2x1", "--config.mesh.fsdp=2", "--no-compile") == 0
    assert "memory, traffic and collectives are calculated, not compiled" in capsys.readouterr().out


def test_a_search_names_the_best(workshop, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vdm_jax.planning.search.REMAT_POLICIES", ("none", "full"))
    monkeypatch.setattr("vdm_jax.planning.search.MOST_CONTEXT", 1)
    assert plan(workshop, "--target", "h100:2", "--search", "--json", tmp_path / "x.json") == 0
    page = capsys.readouterr().out
    assert "candidates, calculated" in page
    assert "best: --config.mesh.data=" in page
    assert any(row["name"] == "search/calculated/1" for row in json.loads((tmp_path / "x.json").read_text()))


def test_a_run_is_compared_with_its_own_plan(silent_run, capsys):
    assert main(["plan", "--profile-of", str(silent_run), "--target", "cpu:8"]) == 0
    assert "measured/step" in capsys.readouterr().out


def test_less_memory_than_it_takes_is_status_1(workshop, capsys):
    words = ["plan", "--config", workshop / CAPTIONED, "--target", "h100:8"]
    assert main([*map(str, words), "--memory", "0.0001"]) == 1
    assert "it does NOT fit" in capsys.readouterr().out


def test_too_large_for_the_chip_is_status_1(tmp_path, capsys):
    words = [
        "--config.mesh.fsdp=4",
        "--config.mesh.context=1",
        "--config.train.batch_size=4",
        "--json",
        str(tmp_path / "x.json"),
    ]
    assert main(["plan", "--config", "configs/dit_14b.py", "--target", "v5e:2x2", *words]) == 1
    page = capsys.readouterr().out
    assert "it does NOT fit" in page
    assert "of 15.75 GiB usable" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target", "v5x:2x2"], "target: unknown 'v5x'"),
        (["--target", "v5p:3x3x1"], "libtpu knows no v5p:3x3x1"),
        (["--target", "h100:8", "--dump-hlo", "x"], "--dump-hlo: h100 programs are calculated, not compiled"),
        (["--target", "cpu:8", "--dump-hlo", "x", "--search"], "--dump-hlo: a search has many programs"),
        (["--target", "cpu:8", "--no-compile", "--search"], "--no-compile: --search is of what is compiled"),
        (["--target", "cpu:8", "--no-compile", "--dump-hlo", "x"], "--no-compile: --dump-hlo is of what is compiled"),
        (["--target", "h100:8", "--samples", "0"], "--samples: 0 must be above 0"),
        (["--target", "h100:8", "--search", "-1"], "--search: -1 must be 0 or more"),
        (["--target", "h100:8", "--config.mesh.fsdp=3"], "mesh: data -1 x fsdp 3"),
        (["--target", "h100:5"], "batch_size: 8 does not divide"),
        (["--target", "cpu:8", "--slices", "2"], "slices: 2 slices of cpu"),
        (["--target", "h100:8", "--memory", "0"], "memory: 0 GiB must be above 0"),
        (["--target", "cpu:8", "--profile-of", "nowhere"], "holds no metrics.jsonl"),
    ],
)
def test_bad_input_is_one_line(workshop, capsys, words, message):
    assert message in refused(capsys, ["plan", "--config", workshop / CAPTIONED, *words])


def test_a_plan_needs_a_config(capsys):
    assert "--config: missing" in refused(capsys, ["plan", "--target", "cpu:8"])
    assert "--target" in refused(capsys, ["plan", "--config", "configs/dit_tiny.py"])
