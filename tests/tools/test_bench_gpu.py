"""tools/bench_gpu at toy size: both sides train, ours with nothing but the core of JAX, and figures are as they say."""

import json
import subprocess
import sys
from pathlib import Path

import bench_gpu
import numpy as np
import pytest
from bench import gpu_sides

from vdm_jax.errors import RunError

TOY = gpu_sides.CASES["toy"]
# What a machine with a GPU need not have.
ABSENT = ("grain", "ml_collections", "clu", "tensorflow_datasets", "array_record", "av", "tensorboard", "torch",
          "diffusers", "transformers", "tokenizers", "safetensors", "matplotlib", "jinja2", "PIL")  # fmt: skip
OURS = """
import importlib.abc, json, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}")

ABSENT = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Absent())
sys.path[:0] = sys.argv[2:]
import bench_gpu
from bench import gpu_sides
sys.argv = ["gpu_sides.py", "ours", "toy", "2"]
gpu_sides.main()
"""


def test_our_side_runs_with_the_core_of_jax_alone():
    """A process of its own, in which nothing else can be imported."""
    tools = Path(bench_gpu.__file__).parent
    command = [sys.executable, "-c", OURS, ",".join(ABSENT), str(tools), str(tools.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    got = gpu_sides.Measured(**json.loads(done.stdout.splitlines()[-1]))
    assert got.seconds > 0
    assert got.how.endswith("remat none")


@pytest.mark.parametrize("library", ["diffusers", "torch"])
def test_their_side_trains_a_model_of_that_size(monkeypatch, library):
    torch = pytest.importorskip("torch", reason="the peer is PyTorch's")
    if library == "diffusers":
        pytest.importorskip("diffusers", reason="the peer is diffusers' class")
    else:
        monkeypatch.setitem(sys.modules, "diffusers", None)
    losses = []

    def eager(function):
        def loss_of(*args):
            loss = function(*args)
            losses.append(loss.item())
            return loss

        return loss_of

    monkeypatch.setattr(torch, "compile", eager)  # inductor takes a minute
    got = gpu_sides.theirs(TOY, 2)
    assert ("WanTransformer3DModel" in got.how) is (library == "diffusers")
    assert len(losses) == 5
    assert len(set(losses)) == 5
    assert np.isfinite(losses).all()


def test_their_recomputation_gives_the_same_gradients(monkeypatch):
    torch = pytest.importorskip("torch", reason="the peer is PyTorch's")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    x0, text = map(torch.from_numpy, gpu_sides.arrays(TOY))
    plain, _ = gpu_sides._peer(TOY, False)
    again, _ = gpu_sides._peer(TOY, True)
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    again.load_state_dict(plain.state_dict())
    t = torch.full((1, 1, 1, 1, 1), 0.3)
    grads = []
    for model in (plain, again):
        model(x0, t, text).square().mean().backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def sides(seconds: float, memory: int):
    """`_side` that tells these of ours, against one second and 4 GiB of theirs, at a peak of 1 TFLOP/s."""

    def side(name, case, rounds):
        if name == "peak":
            return 1e12
        ours = {"seconds": seconds, "memory": memory}
        theirs = {"seconds": 1.0, "memory": 4 << 30}
        return {**(ours if name == "ours" else theirs), "deviation": 0.01, "how": name}

    return side


@pytest.mark.parametrize(("seconds", "memory", "met"), [(0.8, 4, True), (0.81, 5, False)])
def test_figures_are_ratios_and_bars_bar(monkeypatch, seconds, memory, met):
    case = gpu_sides.CASES["1.4b/32k"]
    monkeypatch.setattr(bench_gpu, "_side", sides(seconds, memory << 30))
    figures = {f.name.rpartition("/")[2]: f for f in bench_gpu.measure(case, 3, 2)}
    assert figures["step"].ratio == pytest.approx(seconds)
    assert figures["memory"].ratio == memory / 4
    assert (figures["step"].ok, figures["memory"].ok) == (met, met)
    flops = 3 * gpu_sides.dit_config(case).forward_flops(*case.clip, gpu_sides.TEXT)
    assert figures["mfu"].value == pytest.approx(flops / seconds / 1e12)
    assert case.tokens == 32_760


def test_a_toy_has_no_bar_and_the_sides_take_turns(monkeypatch, capsys):
    asked = []
    side = sides(9.0, 0)

    def recorded(name, case, rounds):
        asked.append(name)
        return side(name, case, rounds)

    monkeypatch.setattr(bench_gpu, "_side", recorded)
    monkeypatch.setattr("sys.argv", ["bench_gpu", "--cases", "toy"])
    assert bench_gpu.main() == 0
    assert asked == ["peak", "ours", "theirs", "theirs", "ours"]
    assert "gpu/toy/step" in capsys.readouterr().out


def test_what_goes_wrong_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench_gpu", "--cases", "1.4b/32"])
    assert bench_gpu.main() == 2
    assert "--cases: unknown '1.4b/32'; did you mean '1.4b/32k'" in capsys.readouterr().err
    broken = subprocess.CompletedProcess([], 1, "", "Traceback\nRuntimeError: out of memory\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: broken)
    with pytest.raises(RunError, match="^toy, ours: RuntimeError: out of memory$"):
        bench_gpu._side("ours", TOY, 1)
