"""Weights that nothing trains are written once, beside the checkpoints, and are there wherever weights are read."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.test_checkpoint import META, flip_a_bit, same_bits
from vdm_jax.errors import RunError
from vdm_jax.training.checkpoint import CheckpointConfig, Checkpointer, restore_weights

FROZEN = frozenset({("net", "kernel"), ("null", "tokens")})


def state_at(step):
    """A base of 64 KiB, and a pair with its average."""
    pair = {"a": jnp.full((4,), step, jnp.float32)}
    params = {"net": {"kernel": jnp.arange(2**14, dtype=jnp.float32), "lora": pair}, "null": {"tokens": jnp.ones(3)}}
    return {"params": params, "ema": {"0.9": {"net": {"lora": {"a": pair["a"] + 0.5}}}}, "step": jnp.int32(step)}


def abstract():
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), state_at(0))


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    run = tmp_path_factory.mktemp("frozen") / "run"
    with Checkpointer(run / "checkpoints", CheckpointConfig(), FROZEN) as checkpointer:
        for step in (5, 10):
            checkpointer.save(step, state_at(step), META)
    return run


@pytest.fixture
def run(two_steps, tmp_path):
    return shutil.copytree(two_steps, tmp_path / "run")


def restore(run):
    with Checkpointer(run / "checkpoints", CheckpointConfig(), FROZEN) as checkpointer:
        return checkpointer.restore(abstract())


def test_the_whole_state_comes_back(run):
    found = restore(run)
    assert (found.step, found.meta) == (10, META)
    assert same_bits(found.state, state_at(10))


def test_the_base_is_written_once(run):
    assert size_of(run / "frozen") > 2**15  # compressed
    assert max(size_of(run / f"checkpoints/{step}") for step in (5, 10)) < 2**14
    written = {path: path.stat().st_mtime_ns for path in (run / "frozen").rglob("*") if path.is_file()}
    with Checkpointer(run / "checkpoints", CheckpointConfig(), FROZEN) as checkpointer:
        checkpointer.save(15, state_at(15), META)
    assert written == {path: path.stat().st_mtime_ns for path in (run / "frozen").rglob("*") if path.is_file()}
    assert same_bits(restore(run).state, state_at(15))


@pytest.mark.parametrize("known", [False, True])
def test_weights_are_complete(run, known):
    wanted = state_at(10)
    how = {"abstract": abstract()["params"]} if known else {}
    assert same_bits(restore_weights(run / "checkpoints", **how).state, wanted["params"])
    averaged = restore_weights(run / "checkpoints", "ema:0.9", **how).state
    assert same_bits(averaged["net"]["kernel"], wanted["params"]["net"]["kernel"])
    np.testing.assert_array_equal(averaged["net"]["lora"]["a"], 10.5)
    assert restore_weights(run / "checkpoints", step=5, **how).step == 5


def test_a_base_that_is_gone_or_damaged_is_one_line(run):
    files = [path for path in (run / "frozen").rglob("*") if path.is_file()]
    flip_a_bit(max(files, key=lambda path: path.stat().st_size))
    with pytest.raises(RunError, match="no intact step in .*frozen"):
        restore_weights(run / "checkpoints")
    with pytest.raises(RunError, match="no intact step is left in .*frozen"):
        restore(run)
    shutil.rmtree(run / "frozen")
    with pytest.raises(RunError, match="frozen is gone, and with it the weights that this run does not train"):
        restore(run)
