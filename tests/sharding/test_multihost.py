import socket
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from vdm_jax.errors import RunError
from vdm_jax.sharding import MeshConfig, batch_sharding, make_mesh, place_batch, start
from vdm_jax.sharding.multihost import launch_options

ENVIRONMENT = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}


def test_one_process_is_left_alone():
    assert start({}) is False
    assert launch_options({"SLURM_JOB_ID": "7"}) is None


def test_the_environment_is_understood():
    want = {"coordinator_address": "10.0.0.1:1234", "num_processes": 4, "process_id": 3}
    assert launch_options(ENVIRONMENT) == want
    assert launch_options({"JAX_DISTRIBUTED": "auto"}) == {}


@pytest.mark.parametrize(("change", "message"), [
    ({"JAX_PROCESS_ID": ""}, "JAX_PROCESS_ID: missing; JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES is set"),
    ({"JAX_PROCESS_ID": "4"}, r"JAX_PROCESS_ID: 4 is outside 0..3"),
    ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1"}, "JAX_COORDINATOR_ADDRESS: '10.0.0.1' is not host:port"),
    ({"JAX_NUM_PROCESSES": "four"}, "JAX_NUM_PROCESSES: 'four' is not a number"),
    ({"JAX_DISTRIBUTED": "atuo"}, "JAX_DISTRIBUTED: unknown 'atuo'; did you mean 'auto'"),
])  # fmt: skip
def test_a_wrong_environment_names_the_variable(change, message):
    with pytest.raises(ValueError, match=message):
        launch_options({**ENVIRONMENT, **change})


def test_a_batch_goes_to_data_and_fsdp():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    batch = {"video": np.arange(8 * 3, dtype=np.uint8).reshape(8, 3), "index": np.arange(8) + 2**32 + 5}
    placed = place_batch(batch, mesh)
    assert placed["video"].sharding.is_equivalent_to(batch_sharding(mesh), 2)
    np.testing.assert_array_equal(placed["video"], batch["video"])
    assert placed["video"].addressable_shards[0].data.shape == (2, 3)
    # A device has no 64-bit integers: the low bits stay, enough to tell examples apart.
    np.testing.assert_array_equal(placed["index"], np.arange(8) + 5)


@pytest.mark.parametrize(("value", "message"), [
    (np.array(["a cat"] * 8, object), r"batch\['caption'\]: dtype object cannot go on a device; tokenise or drop"),
    (np.array(["a cat"] * 8), "cannot go on a device"),
    (np.ones((6, 2)), r"batch\['caption'\]: 6 examples do not divide into 8 parts"),
    (np.float32(1), "0 examples"),
])  # fmt: skip
def test_what_cannot_be_placed_is_named(value, message):
    with pytest.raises(ValueError, match=message):
        place_batch({"caption": value}, make_mesh(MeshConfig()))


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


PROGRAM = """
import jax, numpy as np
from vdm_jax.sharding import MeshConfig, make_mesh, place_batch, start
assert start() and start() and jax.process_count() == 2
mesh = make_mesh(MeshConfig(data=2, fsdp=2))
mine = np.arange(4) + 4 * jax.process_index()
batch = place_batch({"x": mine}, mesh)
print("total", batch["x"].shape, int(jax.jit(lambda x: (x * x).sum())(batch["x"])))
"""


def spawn(program, index, port):
    environ = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(index)}
    environ |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    code = f"import os\nos.environ.update({environ!r})\n" + textwrap.dedent(program)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_share_one_batch():
    port = free_port()
    workers = [spawn(PROGRAM, index, port) for index in range(2)]
    for worker in workers:
        out, error = worker.communicate(timeout=120)
        assert f"total (8,) {sum(i * i for i in range(8))}" in out.split("\n"), error


def test_a_coordinator_that_is_not_there_is_one_line():
    port = free_port()
    environ = {**ENVIRONMENT, "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}"}
    with pytest.raises(RunError, match=f"multihost: process 3 of 4 could not reach 127.0.0.1:{port} within 0.3 s: ."):
        start(environ, timeout_seconds=0.3)


def test_peers_that_do_not_come_are_one_line():
    port = free_port()
    alone = spawn("from vdm_jax.sharding import start\nstart(timeout_seconds=1)", 0, port)
    _, error = alone.communicate(timeout=120)
    assert alone.returncode == 1
    assert error.splitlines()[-1] == (
        f"vdm: multihost: process 0 of 2 waited 1 s at 127.0.0.1:{port} and not all processes came"
    )
    assert "Traceback" not in error


def test_devices_are_the_fake_eight():
    assert jax.device_count() == 8
