"""The pieces of tools/bench_step: both sides of a comparison are one model, and figures are computed as they say."""

import dataclasses
import json
import math

import bench_step
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from bench import against_torch, loader, memory, overhead, peers, programs, sections, timing
from bench.torch_dit import backbone_state, text_state

from vdm_jax.errors import RunError
from vdm_jax.media.figures import Figure

NARROW = {
    **{"model.dim": 32, "model.heads": 2, "model.depth": 2, "train.batch_size": 3},
    **{"data.frames": 4, "data.height": 8, "data.width": 8, "text.dim": 16, "text.heads": 2},
}


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread():
    """Two OpenMP threads on a busy machine wait for each other more than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny():
    return peers.tiny_case(NARROW)


@pytest.fixture(scope="module")
def wan():
    return peers.wan_case(dim=128, depth=2, clip=(2, 4, 4, 16))


def given(draws):
    return {name: torch.from_numpy(np.array(value)) for name, value in draws.items()}


@pytest.mark.parametrize("name", ["tiny", "wan"])
def test_the_peer_has_our_gradients(name, request):
    """Every parameter, so none can be mapped to the wrong place."""
    case = request.getfixturevalue(name)
    objective = dataclasses.replace(case.objective, dropout={})

    @jax.jit
    def gradients(params, draws):
        return jax.value_and_grad(lambda p: objective.loss(case.plan.networks.merge(p), case.batch, draws)[0])(params)

    key = jax.random.fold_in(jax.random.fold_in(peers.stream(peers.SEED, "train"), 0), 0)
    loss, grads = gradients(case.params, objective.draw(case.batch, key))
    trainer = peers.TorchTrainer(case)
    drawn = given(case.draws())
    video = trainer.batch["video"]
    x0 = video.float() / 127.5 - 1 if video.dtype == torch.uint8 else video
    theirs = trainer.loss(x0, drawn["noise"], drawn["time"], trainer.batch)
    theirs.backward()
    assert theirs.item() == pytest.approx(float(loss), rel=1e-5)
    expected = {f"backbone.{name}": g for name, g in backbone_state(grads["backbone"]).items()}
    expected |= {f"text.{name}": g for name, g in (text_state(grads["text"]) if case.text else {}).items()}
    found = dict(trainer.module.named_parameters())
    assert found.keys() == expected.keys()
    for path, parameter in found.items():
        scale = float(expected[path].abs().max())
        assert scale > 1e-8, f"{path} has no gradient: the comparison would be empty"
        np.testing.assert_allclose(parameter.grad, expected[path], atol=1e-3 * scale, rtol=0, err_msg=path)


def test_a_step_of_both_sides_agrees_and_other_weights_are_refused(tiny):
    """The real step draws times, noise and dropped prompts; the peer is given the same and must find the same."""
    _, metrics = tiny.train_step()(tiny.state(), tiny.batch)
    draws = tiny.draws()
    output = tiny.forward(jax.device_put(tiny.params), jnp.asarray(draws["noise"]), 1000 * jnp.asarray(draws["time"]))
    against_torch.check_agreement(tiny, peers.TorchTrainer(tiny), output, metrics, draws)
    other = peers.TorchTrainer(tiny)
    with torch.no_grad():
        other.module.backbone.units[1].mlp.up.weight.mul_(1.5)
    with pytest.raises(RunError, match="differs by"):
        against_torch.check_agreement(tiny, other, output, metrics, draws)


def test_dropped_prompts_are_the_empty_prompt(tiny):
    trainer = peers.TorchTrainer(tiny)
    batch = trainer._dropped(torch.tensor([False, True, False]))
    assert batch["text_ids"][1].tolist() == list(tiny.objective.null_ids)
    assert batch["text_mask"][1].tolist() == list(tiny.objective.null_mask)
    assert batch["text_ids"][0].tolist() == tiny.batch["text_ids"][0].tolist()


def test_a_step_of_the_peer_trains(wan):
    trainer = peers.TorchTrainer(wan)
    draws = given(wan.draws())
    losses = [trainer.step(draws)[0] for _ in range(4)]
    assert losses[-1] < losses[0]
    decay, average = next(iter(trainer.averages.items()))
    start = backbone_state(wan.params["backbone"])["patch_out.bias"]
    now = dict(zip((name for name, _ in trainer.module.named_parameters()), zip(trainer.parameters, average)))
    weight, averaged = (x.detach() for x in now["backbone.patch_out.bias"])
    assert 0 < float((averaged - start).abs().max()) < 5 * (1 - decay) * float((weight - start).abs().max())


def test_peers_take_turns_and_ratios_are_per_round():
    now, order = [0.0], []

    def work(name, seconds):
        order.append(name)
        now[0] += seconds

    rounds = iter([9.0, 1.0, 9.0, 2.0, 9.0, 3.0])  # the first call of a turn, and the one that counts
    calls = {"ours": lambda: work("ours", next(rounds)), "theirs": lambda: work("theirs", 2.0)}
    times = timing.alternate(calls, 3, warm_up=0, clock=lambda: now[0])
    assert order[::2] == order[1::2] == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert times.seconds == {"ours": (1.0, 2.0, 3.0), "theirs": (2.0, 2.0, 2.0)}
    assert times.ratio("ours", "theirs") == (1.0, 0.5, 1.5)
    assert (times.median("ours"), times.deviation("theirs")) == (2.0, 0.0)


@pytest.mark.parametrize(
    ("name", "backbone", "tokens"),
    [("dit_tiny", 1.6e6, 64), ("dit_small", 36e6, 2048), ("dit_1b", 1.42e9, 32_760), ("dit_14b", 14.3e9, 32_760)],
)
def test_configs_are_as_large_as_they_say(name, backbone, tokens):
    run = programs.open_run(name)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(run.plan.abstract.params["backbone"]))
    assert count == pytest.approx(backbone, rel=0.02)
    assert math.prod(run.config.networks.model.token_grid(*run.config.clip_shape[:3])) == tokens


@pytest.mark.parametrize("name", overhead.NAMES)
def test_the_empty_step_is_called_like_the_real_one(name):
    run = overhead.narrow_run(name)
    assert jax.tree.structure(run.plan.abstract) == jax.tree.structure(programs.open_run(name).plan.abstract)
    state = run.plan.init(0)
    before = jax.device_get(state)
    after, metrics = overhead.empty_step(run)(state, programs.random_batch(programs.batch_shapes(run), 0))
    assert {"loss", "grad_norm", "skipped"} <= metrics.keys()
    assert int(after.step) == 1
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after.params), before.params)


def test_remat_shows_in_the_memory_of_a_step():
    changes = {**NARROW, "model.depth": 9, "optimizer.kind": "adamw"}
    kept, recomputed = (memory.step_memory("dit_tiny", changes | {"model.remat": p}) for p in ("none", "full"))
    assert recomputed.temporary < kept.temporary
    assert recomputed.state == kept.state < kept.peak
    assert kept.peak <= kept.state + kept.temporary + 2**16  # the new state takes the place of the old one


def test_windows_of_a_run_are_the_lines_with_perf_figures(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": 1, loader.IDLE: 0.5}, {"step": 2, "eval/loss": 1.0}, {"step": 3, loader.IDLE: 0.25}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [w[loader.IDLE] for w in loader.read_windows(path)] == [0.5, 0.25]


def test_only_the_torch_section_is_measured_with_huge_pages(monkeypatch):
    assert "GLIBC_TUNABLES" not in bench_step.environment({"PATH": "x"}, False)
    assert bench_step.environment({"PATH": "x"}, True)["GLIBC_TUNABLES"].endswith("glibc.malloc.hugetlb=1")
    monkeypatch.setattr(bench_step, "available", lambda: True)
    assert bench_step.settings("torch", "both") == (False, True)
    assert bench_step.settings("memory", "both") == (False,)
    monkeypatch.setattr(bench_step, "available", lambda: False)
    assert bench_step.settings("torch", "on") == (False,)


def test_verdicts_name_what_is_not_met(capsys, tmp_path):
    figures = [
        Figure("a", 10.0, "ms", 8.0, 1.25, ok=False),
        Figure("b", 0.5, "ms", ok=True),
        Figure("no bar", 1.0, "s"),
    ]
    assert sections.finish(figures, tmp_path / "figures.json") == 1
    assert capsys.readouterr().out.splitlines()[-2:] == ["NOT MET  a: ratio 1.25", "ok       b: 0.5 ms"]
    assert [row["name"] for row in json.loads((tmp_path / "figures.json").read_text())] == ["a", "b", "no bar"]
    assert sections.finish(figures[1:], None) == 0


def test_an_unknown_section_is_named(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench_step", "--only", "torhc"])
    assert bench_step.main() == 2
    assert "torch" in capsys.readouterr().err
