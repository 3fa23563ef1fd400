"""`vdm parity`, and that a certificate can be refused."""

import dataclasses
import json
import sys

import numpy as np
import pytest

from vdm_jax.cli import parity as command
from vdm_jax.cli.main import main
from vdm_jax.interop.cases.wan import CASES
from vdm_jax.interop.families.wan import WAN
from vdm_jax.interop.parity import abstract_check, certify, redraw, relative_error

TEXT_TO_VIDEO = CASES[0]


def wrong(network, inputs):
    """A network that hears half of the prompt."""
    return network(inputs["x"], inputs["time"], {"tokens": 0.5 * inputs["tokens"]})


def test_the_command_prints_a_certificate_and_writes_figures(monkeypatch, tmp_path, capsys):
    pytest.importorskip("diffusers", reason="the published class is the oracle")
    monkeypatch.setattr(command, "CASES", (TEXT_TO_VIDEO,))
    assert main(["parity", "WanTransformer3DModel", "--json", str(tmp_path / "figures.json")]) == 0
    out = capsys.readouterr().out
    assert "same bits" in out
    assert out.splitlines()[1].startswith("WanTransformer3DModel  text-to-video")
    figures = {row["name"]: row for row in json.loads((tmp_path / "figures.json").read_text())}
    assert figures["WanTransformer3DModel/text-to-video/forward"]["value"] < 1e-5
    assert figures["WanTransformer3DModel/text-to-video/round_trip"]["ok"] is True


def test_a_network_that_computes_something_else_gets_no_certificate():
    pytest.importorskip("diffusers", reason="the published class is the oracle")
    found = certify(dataclasses.replace(TEXT_TO_VIDEO, ours=wrong))
    assert not found.ok
    assert found.forward > 1e-4
    assert found.round_trip  # its weights are the same all the same


def test_a_key_map_that_misses_a_tensor_is_found():
    pytest.importorskip("diffusers", reason="the published class is the oracle")
    options = dict(TEXT_TO_VIDEO.published)
    assert abstract_check(WAN, options) == 69
    with pytest.raises(ValueError, match=r"tensors differ: .*norm2"):
        abstract_check(dataclasses.replace(WAN, read=_without_norm), options)


def _without_norm(options):
    return dataclasses.replace(WAN.read(options), cross_norm=False)


def test_every_weight_is_drawn_again():
    torch = pytest.importorskip("torch", reason="its modules are drawn")
    module = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.LayerNorm(64))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    redraw(module, 0.02)
    weight, bias, scale, shift = (parameter.detach().numpy() for parameter in module.parameters())
    assert 0.8 < np.mean(scale) < 1.2
    for drawn in (weight, bias, shift):
        assert 0.01 < np.std(drawn) < 0.03


def test_without_pytorch_one_line_says_so(monkeypatch, capsys):
    for name in ("torch", "diffusers"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["parity", "WanTransformer3DModel"]) == 1
    error = capsys.readouterr().err
    assert "parity: torch cannot be imported" in error
    assert "vdm_jax[torch]" in error


def test_relative_errors():
    assert relative_error(np.array([1.0, 3.0]), np.array([1.0, 2.0])) == 0.5
    assert relative_error(np.array([1e-9]), np.array([0.0]), floor=1e-3) == 1e-6
    with pytest.raises(AssertionError, match="shape"):
        relative_error(np.zeros(2), np.zeros(3))
