"""Compiled steps: one a shape, kept and loaded, refused when anything they depend on has changed."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.training.tiny_run import Run, batch_of, bits, make_run
from vdm_jax.sharding import MeshConfig
from vdm_jax.training import programs
from vdm_jax.training.programs import CompileConfig, Kept, compile_programs, signature, use_cache

MESH = MeshConfig(data=2, fsdp=2, tensor=2)
CONFIG = {"optimizer": {"learning_rate": 0.02}, "mesh": {"data": 2}, "log": {"every": 3}}


def named(batch: dict) -> dict:
    """A batch as a loader would make it: programs are called after their video."""
    return {**batch, "video": np.zeros((len(batch["x"]), 1, 2, 2), np.uint8)}


def made(run: Run, folder=None, sizes=(16, 32), config=CONFIG):
    """The programs of a run, and what was said."""
    said = []
    kept = Kept(folder, config, run.plan.mesh) if folder else None
    batches = [run.place(named(batch_of(0, size))) for size in sizes]
    return compile_programs(run.step, run.plan.abstract, batches, kept, said.append), said


@pytest.fixture(scope="module")
def run():
    return make_run(MESH)


def test_each_shape_is_compiled_once_and_counted(run, monkeypatch):
    lowered = []
    original = type(run.step).lower
    monkeypatch.setattr(type(run.step), "lower", lambda *a: lowered.append(a) or original(*a))
    step, said = made(run, sizes=(16, 32, 16))
    assert len(lowered) == 2
    assert len(said) == 1
    assert said[0].startswith("step programs: 2 compiled in ")
    assert said[0].endswith(" s, for batches of 1x2x2 x 16, 1x2x2 x 32")
    state = run.start()
    with jax.log_compiles(False), jax.transfer_guard("disallow"):
        for size in (16, 32, 16):
            with jax.transfer_guard("allow"):
                batch = run.place(named(batch_of(size, size)))
            state, metrics = step(state, batch)
    assert np.isfinite(float(metrics["loss"]))
    with pytest.raises(ValueError, match=r"batch: no step was compiled for .*\(24, 4, 8\)"):
        step(state, run.place(named(batch_of(0, 24))))


def test_a_program_is_the_step(run):
    step, _ = made(run, sizes=(16,))
    plain, compiled = run.start(), run.start()
    for index in range(3):
        batch = run.place(named(batch_of(index)))
        plain, a = run.step(plain, batch)
        compiled, b = step(compiled, batch)
    assert bits((plain, a)) == bits((compiled, b))


@pytest.fixture
def persistent_cache():
    """Everything that is compiled goes into JAX's persistent cache, however quick it was."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 0.0)
    yield Path(jax.config.jax_compilation_cache_dir)
    jax.config.update(name, before)


def test_kept_programs_are_loaded_and_give_the_same_bits(run, tmp_path, monkeypatch, persistent_cache):
    made(run)  # leaves them in the cache, and an executable out of the cache cannot be kept
    jax.clear_caches()
    assert any(persistent_cache.glob("jit_*"))
    step, said = made(run, tmp_path / "programs")
    assert "2 compiled" in said[0]
    assert len(list((tmp_path / "programs").glob("*.program"))) == 2
    monkeypatch.setattr(type(run.step), "lower", None)  # nothing is traced
    again, said = made(run, tmp_path / "programs")
    assert len(said) == 1
    assert "2 loaded" in said[0]
    batch = run.place(named(batch_of(0)))
    first, second = step(run.start(), batch), again(run.start(), batch)
    assert bits(first) == bits(second)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    shardings = [jax.tree.map(lambda x: x.sharding, out) for out in (first, second)]
    assert jax.tree.all(jax.tree.map(lambda a, b, x: a.is_equivalent_to(b, x.ndim), *shardings, first))


@pytest.mark.parametrize(("what", "value", "message"), [
    ("jax", "0.9.9", "stale (jax: 0.9.9 -> {jax})"),
    ("code", "00", "stale (code: 00 -> "),
    ("devices", [0], "stale (devices: [0] -> ["),
    ("flags", {"XLA_FLAGS": ""}, "stale (flags."),
])  # fmt: skip
def test_a_stale_program_is_refused_and_compiled_again(run, tmp_path, what, value, message):
    _, _ = made(run, tmp_path, sizes=(16,))
    (path,) = tmp_path.glob("*.program")
    header, _, payload = path.read_bytes().partition(b"\n")
    header = json.loads(header)
    header["key"][what] = value
    path.write_bytes(json.dumps(header).encode() + b"\n" + payload)
    _, said = made(run, tmp_path, sizes=(16,))
    assert said[0].startswith(f"step program {path}: {message.format(jax=jax.__version__)}")
    assert said[0].endswith("; compiling it again")
    assert "\n" not in said[0]
    assert "1 compiled" in said[1]
    _, said = made(run, tmp_path, sizes=(16,))
    assert "1 loaded" in said[0]


def test_another_config_is_stale_and_another_log_interval_is_not(run, tmp_path):
    made(run, tmp_path, sizes=(16,))
    _, said = made(run, tmp_path, sizes=(16,), config={**CONFIG, "log": {"every": 7}})
    assert "1 loaded" in said[0]
    _, said = made(run, tmp_path, sizes=(16,), config={**CONFIG, "optimizer": {"learning_rate": 0.1}})
    assert "stale (config.optimizer.learning_rate: 0.02 -> 0.1); compiling it again" in said[0]


def test_another_mesh_is_stale(run, tmp_path):
    made(run, tmp_path, sizes=(16,))
    other = make_run(MeshConfig(data=1, fsdp=8))
    _, said = made(other, tmp_path, sizes=(16,))
    assert "mesh.data: 2 -> 1; mesh.fsdp: 2 -> 8" in said[0]


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"{}\n" + data, lambda data: b""])
def test_a_damaged_program_is_compiled_again(run, tmp_path, damage):
    made(run, tmp_path, sizes=(16,))
    (path,) = tmp_path.glob("*.program")
    path.write_bytes(damage(path.read_bytes()))
    _, said = made(run, tmp_path, sizes=(16,))
    assert said[0] == f"step program {path}: damaged; compiling it again"


def test_shapes_and_names_tell_batches_apart(run):
    batch = run.place(batch_of(0))
    assert signature(batch) == signature(run.place(batch_of(1)))
    assert signature(batch) != signature(run.place(batch_of(0, 32)))
    assert signature(batch) != signature({**batch, "segments": batch["x"]})


CACHED = """
import sys, jax
from vdm_jax.training.programs import CompileConfig, use_cache
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
use_cache(CompileConfig(cache=sys.argv[1]))
jax.jit(lambda x: x * 2 + 1)(1.0)
"""


def test_the_cache_is_where_the_config_says(tmp_path):
    subprocess.run([sys.executable, "-c", CACHED, str(tmp_path / "cache")], check=True, timeout=120)
    assert list((tmp_path / "cache").iterdir())


def test_without_a_cache_the_environment_decides():
    before = jax.config.jax_compilation_cache_dir
    use_cache(CompileConfig())
    assert jax.config.jax_compilation_cache_dir == before


def test_the_code_is_part_of_the_key(tmp_path, monkeypatch):
    package = tmp_path / "vdm_jax"
    (package / "training").mkdir(parents=True)
    (package / "training" / "programs.py").write_text("a = 1\n")
    digests = []
    for text in ("a = 1\n", "a = 2\n"):
        (package / "training" / "programs.py").write_text(text)
        monkeypatch.setattr(programs, "__file__", str(package / "training" / "programs.py"))
        digests.append(programs.code_digest.__wrapped__())
    assert len(set(digests)) == 2
    assert Path(programs.__file__).exists()
