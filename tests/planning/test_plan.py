"""A plan from a config to the page and the figures: compiled for a TPU that is not there, and for fake CPU devices."""

import dataclasses
import json

import pytest

from tests.planning.small_run import small_config
from vdm_jax.errors import RunError
from vdm_jax.media.figures import Figure
from vdm_jax.planning import compile as compiling
from vdm_jax.planning.chips import GIB
from vdm_jax.planning.collectives import wire_bytes
from vdm_jax.planning.compile import batch_shapes, compile_step, trace_step, vocabulary
from vdm_jax.planning.hlo import parse
from vdm_jax.planning.measured import compare, measured_step_seconds
from vdm_jax.planning.memory import DoesNotFitError
from vdm_jax.planning.plan import compiled_plan, make_plan
from vdm_jax.planning.report import figures, report
from vdm_jax.planning.search import Candidate, Ranked
from vdm_jax.planning.targets import parse_target
from vdm_jax.planning.traffic import step_products
from vdm_jax.sharding import MeshConfig


@pytest.fixture(scope="module")
def tpu_plan():
    """Four chips, weights split over all of them."""
    return make_plan(small_config(mesh={"data": 1, "fsdp": 4}, train={"batch_size": 4}), parse_target("v5p:2x2x1"))


@pytest.fixture(scope="module")
def cpu_plan():
    return make_plan(small_config(), parse_target("cpu:8"))


def test_a_tpu_step_is_compiled_and_fits(tpu_plan):
    memory = tpu_plan.memory
    assert tpu_plan.compiled is not None
    assert tpu_plan.fits is True
    assert 0 < memory.state < memory.needed < memory.usable
    assert memory.peak > memory.state
    assert memory.headroom == memory.usable - memory.needed


def test_it_says_which_kernels_and_why(tpu_plan, cpu_plan):
    assert any(note.startswith("attention kernel splash: ") for note in tpu_plan.notes)
    assert any(note.startswith("attention kernel chunked: ") for note in cpu_plan.notes)
    assert any(note in report(tpu_plan, samples=1.0) for note in tpu_plan.notes)


def test_its_collectives_are_those_of_fsdp(tpu_plan):
    kinds = {c.kind for c in tpu_plan.found}
    assert "all-gather" in kinds
    assert kinds & {"reduce-scatter", "all-reduce"}
    assert {c.axes for c in tpu_plan.found if c.wire_bytes > 0} == {("fsdp",)}
    assert parse(tpu_plan.compiled.text).unknown_loops == ()
    layers = [c for c in tpu_plan.found if c.count > 1]
    assert layers  # the scan over blocks is seen to run more than once


def test_the_trace_counts_what_the_compiler_makes(tpu_plan):
    """Products of the compiled program, with its loops, are those of the trace: remat is neither lost nor added."""
    traced = trace_step(tpu_plan.config, tpu_plan.target).program
    compiled = step_products(parse(tpu_plan.compiled.text))
    assert compiled == pytest.approx(traced.products / 4, rel=1e-3)
    assert tpu_plan.executed == traced.products + traced.kernels


def test_its_times_add_up(tpu_plan):
    times = tpu_plan.times
    assert times.collectives >= times.exposed > 0
    assert times.step == max(times.compute, times.hbm) + times.exposed
    assert times.in_turn >= times.step
    assert 0 < times.mfu < 1
    assert tpu_plan.recomputed > 0


def test_fake_cpu_devices_are_compiled_for_without_a_roofline(cpu_plan):
    assert cpu_plan.times is None
    assert cpu_plan.fits is None
    assert cpu_plan.cost(1e6) is None
    assert wire_bytes(cpu_plan.found) > 0
    assert {axis for c in cpu_plan.found for axis in c.axes} == {"data", "fsdp"}


def test_a_gpu_is_calculated():
    plan = make_plan(small_config(), parse_target("h200:8"))
    assert plan.compiled is None
    assert plan.fits is True
    assert "calculated, not compiled" in plan.notes[0]
    assert any(note.startswith("attention kernel cudnn: ") for note in plan.notes)  # what a GPU would choose
    assert plan.times.mfu > 0


def test_the_page_says_everything(tpu_plan, cpu_plan):
    page = report(tpu_plan, samples=1e6)
    for words in (
        "v5p:2x2x1: 4 devices as data 1 x fsdp 4", "it fits", "parameters", "optimiser", "averages", "temporaries",
        "headroom", "usable", "recomputed", "attention", "all-gather", "fsdp", "roofline", "MFU",
        "1,000,000 clips take",
        "accelerator-hours", "bf16 TFLOP/s 459", "HBM GB/s 2,765",
    ):  # fmt: skip
        assert words in page, words
    assert "step time: unknown, as nobody knows the peaks of cpu" in report(cpu_plan, samples=1e6)


def test_the_figures_are_complete(tpu_plan, cpu_plan):
    found = {figure.name: figure for figure in figures(tpu_plan, samples=1e6)}
    assert found["fits"].ok is True
    assert found["memory/parameters"].value == tpu_plan.memory.parameters / GIB
    assert found["collectives/total"].value == pytest.approx(
        sum(f.value for name, f in found.items() if name.startswith("collectives/") and name != "collectives/total")
    )
    assert found["time/step"].value == tpu_plan.times.step
    assert found["accelerator_hours"].value > 0
    assert "mfu" not in {figure.name for figure in figures(cpu_plan, samples=1e6)}


def test_what_does_not_fit_is_still_planned(monkeypatch):
    def full(traced, say):
        raise DoesNotFitError("v5p:2x2x1", 200 * GIB, 95.74 * GIB, ["program 190.00G", "36.00G bf16[40,8] op"])

    monkeypatch.setattr("vdm_jax.planning.plan.compile_step", full)
    plan = make_plan(small_config(mesh={"data": 1, "fsdp": 4}, train={"batch_size": 4}), parse_target("v5p:2x2x1"))
    assert plan.fits is False
    assert plan.found
    page = report(plan, samples=1.0)
    assert "it does NOT fit" in page
    assert "36.00G bf16[40,8] op" in page
    fits = next(f for f in figures(plan, 1.0) if f.name == "fits")
    assert (fits.value, fits.ok) == (False, False)


def test_other_failures_of_the_compiler_are_one_line():
    traced = trace_step(small_config(), parse_target("cpu:8"))

    class Broken:
        def lower(self):
            import jax

            raise jax.errors.JaxRuntimeError("INTERNAL: it broke\nand said more")

    with pytest.raises(RunError, match=r"the compiler of cpu:8 failed: INTERNAL: it broke$"):
        compile_step(dataclasses.replace(traced, stages=Broken()))


@pytest.mark.parametrize(
    ("sections", "target", "message"),
    [
        ({"train": {"batch_size": 6}}, "h100:8", "batch_size: 6 does not divide .* the nearest that does is 8"),
        ({"mesh": {"data": 3}}, "h100:8", "does not fit 8 devices; the nearest that does"),
        ({"mesh": {"data": 1, "fsdp": 1, "tensor": 8}}, "h100:8", "heads: 4 does not divide by tensor 8"),
    ],
)
def test_what_cannot_be_laid_out_is_refused_before_any_compile(monkeypatch, sections, target, message):
    monkeypatch.setattr(compiling, "make_train_step", None)
    with pytest.raises(ValueError, match=message):
        trace_step(small_config(**sections), parse_target(target))


def test_batches_are_those_of_the_loader():
    config = small_config()
    assert batch_shapes(config)["video"][0] == (8, 2, 16, 16, 4)
    assert batch_shapes(config)["text_ids"][0] == (8, 8)
    assert vocabulary(config.networks.text) == 64
    assert vocabulary(dataclasses.replace(config.networks.text, tokenizer="bytes")) == 259


def test_a_run_is_held_against_its_plan(tmp_path, tpu_plan, cpu_plan):
    with pytest.raises(ValueError, match="holds no metrics.jsonl"):
        measured_step_seconds(tmp_path)
    rates = ((10, 2.0), (20, 4.0), (30, 5.0))
    lines = [{"step": n, "loss": 1.0, "perf/steps_per_second": rate} for n, rate in rates]
    lines.append({"step": 30, "eval/loss": 1.0})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    seconds, _, count = measured_step_seconds(tmp_path)
    assert (seconds, count) == (0.25, 3)
    found = {figure.name: figure for figure in compare(tpu_plan, tmp_path)}
    assert found["measured/step"].ratio == pytest.approx(0.25 / tpu_plan.times.step)
    assert found["measured/mfu"].value == pytest.approx(tpu_plan.times.mfu * tpu_plan.times.step / 0.25)
    assert {f.name for f in compare(cpu_plan, tmp_path)} == {"measured/step", "measured/model_rate"}
    (tmp_path / "metrics.jsonl").write_text("{not json\n")
    with pytest.raises(RunError, match="cannot be read"):
        measured_step_seconds(tmp_path)


def test_a_ranking_shows_what_does_not_fit(tpu_plan):
    from vdm_jax.planning.report import ranking, ranking_figures

    candidate = Candidate(MeshConfig(data=1, fsdp=4), "full", "auto", 4)
    too_large = dataclasses.replace(tpu_plan, too_large=DoesNotFitError("v5p", 200 * GIB, 95 * GIB, []))
    ranked = [Ranked(candidate, tpu_plan), Ranked(candidate, too_large)]
    page = ranking("two", ranked)
    assert "fsdp 4, remat full, kernel auto, batch 4" in page
    assert "200.0 too much" in page
    assert [f.ok for f in ranking_figures("compiled", ranked)] == [True, False]
    assert all(isinstance(f, Figure) for f in ranking_figures("calculated", ranked))


def test_a_compiled_text_makes_the_same_plan_again(tpu_plan):
    traced = trace_step(tpu_plan.config, tpu_plan.target)
    again = compiled_plan(traced, tpu_plan.compiled)
    assert again.times == tpu_plan.times
    assert again.found == tpu_plan.found
