"""Checkpoints: what comes back is bit for bit what was saved, on any mesh, or an older step, or a clear error."""

import contextlib
import resource
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tests.training import toy_run
from tests.training.read_only import read_only_folder
from vdm_jax.errors import RunError
from vdm_jax.training import digests
from vdm_jax.training.checkpoint import CheckpointConfig, Checkpointer, StepMeta, restore_weights

META = StepMeta(
    process={"kind": "vp", "steps": 1000},
    data={"next_index": 40},
    config={"train": {"lr": 1e-4}},
    code={"revision": None},
    window={"loss": [0.1, 3.0]},
)
# What Orbax notes about the commit: it comes after the digests, and a restore never reads it.
UNREAD = {"_CHECKPOINT_METADATA", "commit_success.txt", "digests/commit_success.txt"}


def state_at(step: int) -> toy_run.ToyState:
    state = toy_run.init()
    return jax.tree.map(lambda a: a + jnp.asarray(step, a.dtype), state)


def same_bits(a, b) -> bool:
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    return all(
        x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """Committed steps 5 and 10; tests work on copies."""
    directory = tmp_path_factory.mktemp("two") / "checkpoints"
    with Checkpointer(directory, CheckpointConfig()) as checkpointer:
        for step in (5, 10):
            checkpointer.save(step, state_at(step), META)
    return directory


@pytest.fixture
def saved(two_steps, tmp_path):
    return Path(shutil.copytree(two_steps, tmp_path / "checkpoints"))


def restore(directory, abstract=None):
    with Checkpointer(directory, CheckpointConfig()) as checkpointer:
        return checkpointer.restore(abstract or toy_run.abstract())


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def test_what_comes_back_is_what_was_saved(saved):
    restored = restore(saved)
    assert restored.step == 10
    assert isinstance(restored.state, toy_run.ToyState)
    assert same_bits(restored.state, state_at(10))
    assert restored.meta == META


def test_nothing_saved_restores_nothing(tmp_path):
    assert restore(tmp_path / "checkpoints") is None


def test_the_state_may_be_donated_while_it_is_still_being_written(tmp_path):
    state = {"big": jnp.arange(2_000_000.0), "step": jnp.int32(3)}
    expected = jax.tree.map(np.array, state)
    advance = jax.jit(lambda tree: jax.tree.map(lambda a: a * 2 + 1, tree), donate_argnums=0)
    with Checkpointer(tmp_path / "c", CheckpointConfig()) as checkpointer:
        checkpointer.save(1, state, META)
        for _ in range(20):
            state = advance(state)
        checkpointer.wait()
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state)
        assert same_bits(checkpointer.restore(abstract).state, expected)


def mesh_sharding(shape: tuple[int, int]) -> tuple[Mesh, toy_run.ToyState]:
    mesh = jax.make_mesh(shape, ("data", "fsdp"), (AxisType.Auto,) * 2, devices=jax.devices()[: shape[0] * shape[1]])

    def place(leaf):
        spec = PartitionSpec("data", "fsdp") if leaf.shape == (8, 16) else PartitionSpec()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return mesh, jax.tree.map(place, jax.eval_shape(toy_run.init))


@pytest.fixture(scope="module")
def sharded_checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mesh") / "checkpoints"
    _, abstract = mesh_sharding((4, 2))
    state = jax.tree.map(lambda array, target: jax.device_put(array, target.sharding), state_at(7), abstract)
    with Checkpointer(directory, CheckpointConfig()) as checkpointer:
        checkpointer.save(7, state, META)
    return directory


@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (2, 1), (1, 1)])
def test_restores_onto_another_mesh(sharded_checkpoint, shape):
    _, abstract = mesh_sharding(shape)
    state = restore(sharded_checkpoint, abstract).state
    assert same_bits(state, state_at(7))
    assert all(
        array.sharding == target.sharding
        for array, target in zip(jax.tree.leaves(state), jax.tree.leaves(abstract), strict=True)
    )


def test_keeps_the_newest_and_every_so_many(tmp_path):
    with Checkpointer(tmp_path / "c", CheckpointConfig(keep=2, keep_every=10)) as checkpointer:
        for step in (5, 10, 15, 20, 25, 27):
            checkpointer.save(step, {"x": jnp.ones(3)}, META)
    assert sorted(int(p.name) for p in (tmp_path / "c").iterdir()) == [10, 20, 25, 27]


def test_every_flipped_bit_is_found_named_and_survived(two_steps, tmp_path, capfd):
    """One flip in each file of the newest step in turn: an older step, or a file that no restore reads."""
    names = sorted(str(p.relative_to(two_steps / "10")) for p in (two_steps / "10").rglob("*") if p.is_file())
    assert len(names) > 10
    for number, name in enumerate(names):
        directory = Path(shutil.copytree(two_steps, tmp_path / str(number)))
        file = directory / "10" / name
        if file.stat().st_size:
            flip_a_bit(file)
        else:  # it holds no bit to flip; a byte too many is the damage it can have
            file.write_bytes(b"x")
        restored = restore(directory)
        error = capfd.readouterr().err
        if name in UNREAD:
            assert restored.step == 10, name
        else:
            assert restored.step == 5, name
            assert "DAMAGED CHECKPOINT: step 10" in error
            # a digest that no longer fits is blamed on the file it belongs to: nobody can tell which one is right
            assert name in error or name == "digests/digests.json", (name, error)
            assert sorted(p.name for p in directory.iterdir()) == ["10.damaged", "5"], name
        assert same_bits(restored.state, state_at(restored.step)), name


def test_a_run_goes_on_past_a_damaged_step_and_saves_it_again(saved):
    (saved / "10/state/manifest.ocdbt").unlink()
    with Checkpointer(saved, CheckpointConfig()) as checkpointer:
        assert checkpointer.restore(toy_run.abstract()).step == 5
        checkpointer.save(10, state_at(11), META)
        checkpointer.wait()
        assert same_bits(checkpointer.restore(toy_run.abstract()).state, state_at(11))
    (saved / "10/state/manifest.ocdbt").unlink()
    assert restore(saved).step == 5
    assert sorted(p.name for p in saved.iterdir()) == ["10.damaged", "10.damaged+", "5"]


def test_when_all_are_damaged_the_run_does_not_begin_anew(saved):
    shutil.rmtree(saved / "10/meta")
    shutil.rmtree(saved / "5/digests")
    for _ in range(2):  # nor when it is started once more
        with pytest.raises(RunError, match=r"no intact step .*10\.damaged, 5\.damaged") as error:
            restore(saved)
        assert "\n" not in str(error.value)


def test_what_a_killed_save_left_is_no_checkpoint(saved):
    shutil.copytree(saved / "10", saved / "15.orbax-checkpoint-tmp")
    assert restore(saved).step == 10
    assert sorted(p.name for p in saved.iterdir()) == ["10", "5"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a.params["backbone"].update(w=jax.ShapeDtypeStruct((8, 17), jnp.float32)), "backbone/w: float32"),
        (lambda a: a.params["backbone"].update(w=jax.ShapeDtypeStruct((8, 16), jnp.bfloat16)), "bfloat16[8,16] wanted"),
        (lambda a: a.params.update(head=jax.ShapeDtypeStruct((2,), jnp.float32)), "params/head: nothing saved"),
        (lambda a: a.ema.clear(), "ema/0.9/backbone/b: bfloat16[16] saved, nothing wanted"),
    ],
)
def test_another_state_is_a_usage_error_and_no_damage(saved, change, said):
    abstract = toy_run.abstract()
    change(abstract)
    with pytest.raises(ValueError, match="holds another state") as error:
        restore(saved, abstract)
    assert said in str(error.value)
    assert sorted(p.name for p in saved.iterdir()) == ["10", "5"]


def test_an_intact_step_that_cannot_be_loaded_is_left_alone(saved, monkeypatch):
    def out_of_memory(*arguments, **keywords):
        raise MemoryError("RESOURCE_EXHAUSTED: 80 GiB\nand a long tail")

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", out_of_memory)
    with pytest.raises(RunError, match="10 is as it was written but cannot be loaded: RESOURCE_EXHAUSTED: 80 GiB$"):
        restore(saved)
    assert sorted(p.name for p in saved.iterdir()) == ["10", "5"]


def test_weights_without_the_optimizer(saved):
    restored = restore_weights(saved)
    assert restored.step == 10
    assert restored.meta.process == META.process
    assert same_bits(restored.state, state_at(10).params)
    assert same_bits(restore_weights(saved, step=5).state, state_at(5).params)


def test_averaged_weights_are_complete(saved):
    """What nothing trains has no average, and comes from the parameters."""
    state = state_at(10)
    restored = restore_weights(saved, "ema:0.9")
    assert same_bits(restored.state, {**state.ema["0.9"], "table": state.params["table"]})


def test_weights_onto_a_mesh(saved):
    _, abstract = mesh_sharding((2, 2))
    for which in ("params", "ema:0.9"):
        weights = restore_weights(saved, which, abstract=abstract.params).state
        assert weights["backbone"]["w"].sharding == abstract.params["backbone"]["w"].sharding


def test_weights_that_are_not_there(saved, tmp_path):
    with pytest.raises(ValueError, match=r"unknown 'ema:0\.99'; did you mean 'ema:0\.9'\? allowed: ema:0\.9, params"):
        restore_weights(saved, "ema:0.99")
    with pytest.raises(ValueError, match="step: unknown '11'.*allowed: 10, 5"):
        restore_weights(saved, step=11)
    with pytest.raises(RunError, match="none in"):
        restore_weights(tmp_path / "nowhere")


def test_weights_fall_back_without_touching_anything(saved, capfd):
    flip_a_bit(next((saved / "10/state/d").iterdir()))
    assert restore_weights(saved).step == 5
    assert "DAMAGED CHECKPOINT: step 10" in capfd.readouterr().err
    assert sorted(p.name for p in saved.iterdir()) == ["10", "5"]
    with pytest.raises(RunError, match="no intact step"):
        restore_weights(saved, step=10)


@contextlib.contextmanager
def no_file_above(size: int):
    """Writing beyond `size` bytes fails, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_one_line_and_leaves_the_steps_before(saved, capfd):
    too_big = jax.random.normal(jax.random.key(0), (2_000_000,))
    checkpointer = Checkpointer(saved, CheckpointConfig())
    with no_file_above(1 << 20):
        checkpointer.save(15, {"x": too_big}, META)
        with pytest.raises(RunError, match="cannot save to .*; complete steps: 5, 10") as error:
            checkpointer.wait()
    checkpointer.close()
    assert sorted(p.name for p in saved.iterdir()) == ["10", "5"]
    assert "\n" not in str(error.value)
    assert "Traceback" not in capfd.readouterr().err
    assert same_bits(restore(saved).state, state_at(10))


def test_a_read_only_directory_is_one_line():
    denied = pytest.raises(RunError, match=r"checkpoints: cannot write .*/new: .*[Pp]ermission denied")
    with read_only_folder() as folder, denied:
        Checkpointer(folder / "new", CheckpointConfig())


@pytest.mark.parametrize(("field", "value"), [("every", 0), ("keep", 0), ("keep_every", -1)])
def test_the_config_refuses_what_means_nothing(field, value):
    with pytest.raises(ValueError, match=f"{field}: {value}"):
        CheckpointConfig(**{field: value})


def test_digests_travel_inside_the_atomic_step(saved):
    """They are there as soon as the step has its name; no kill can come in between."""
    assert set(digests.read_digests(saved / "10")) == {
        str(p.relative_to(saved / "10"))
        for p in (saved / "10").rglob("*")
        if p.is_file() and p.relative_to(saved / "10").parts[0] in ("state", "meta")
    }
