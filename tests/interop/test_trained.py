"""Weights of a trained run, exported as the published class."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests.interop.test_component import same_bits, values
from tests.training.dit_runs import config_of, tokenizer
from vdm_jax.cli.main import main
from vdm_jax.diffusion.configuration import process_to_dict
from vdm_jax.interop.component import Component, read, write
from vdm_jax.interop.parity import open_published
from vdm_jax.interop.wan import WAN
from vdm_jax.training.checkpoint import CheckpointConfig, Checkpointer, StepMeta
from vdm_jax.training.run import assemble
from vdm_jax.training.run_config import complete, run_config_from


def trained(network: str, path) -> dict:
    """A run of one step count, its average unlike its weights; returns the weights."""
    raw = config_of(network, {"data": 1}) | {"ema": {"decays": (0.9,)}, "sample": {"ema": 0.9}}
    config = run_config_from(raw)
    run = assemble(config, tokenizer().vocab_size, tokenizer().encode([""]), jax.devices()[:1])
    state = run.plan.init(3)
    averages = {name: jax.tree.map(lambda leaf: leaf + 0.5, part) for name, part in state.ema.items()}
    state = dataclasses.replace(state, ema=averages)
    path.mkdir()
    tokenizer().save(path / "tokenizer.json")
    (path / "config.json").write_text(json.dumps(complete(raw)))
    with Checkpointer(path / "checkpoints", CheckpointConfig()) as checkpointer:
        checkpointer.save(7, state, StepMeta(process_to_dict(config.process), {}, {}))
    return jax.device_get(state.params["backbone"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    return path, trained("wan", path)


def test_a_trained_network_becomes_the_published_class(run, tmp_path):
    path, params = run
    assert main(["export", str(path), "--out", str(tmp_path / "raw"), "--weights", "params"]) == 0
    for words in ([], ["--weights", "ema"], ["--weights", "ema:0.9"]):
        assert main(["export", str(path), "--out", str(tmp_path / f"ema{len(words)}{words[-1:]}"), *words]) == 0
    raw, average = values(tmp_path / "raw"), values(tmp_path / "ema0[]")
    config = read(tmp_path / "raw").config
    write(Component(WAN, config, params), tmp_path / "wanted")
    assert same_bits(raw, values(tmp_path / "wanted"))
    assert same_bits(average, values(tmp_path / "ema2['ema']"))
    assert all(np.allclose(average[name], raw[name] + 0.5) for name in raw)


def test_pytorch_opens_what_was_trained_here(run, tmp_path):
    pytest.importorskip("diffusers", reason="the published class is what it is exported as")
    path, _ = run
    assert main(["export", str(path), "--out", str(tmp_path / "out"), "--dtype", "fp16"]) == 0
    module = open_published(WAN, tmp_path / "out")
    assert module.config.num_layers == 1
    ours = {name: value.astype(np.float32) for name, value in values(tmp_path / "out").items()}
    theirs = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    assert same_bits(ours, theirs)
