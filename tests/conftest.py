"""Eight fake CPU devices for every test, set before JAX starts; what is compiled does not outlive its file."""

import os
import tempfile

FLAGS = (
    "--xla_force_host_platform_device_count=8",
    # On two busy cores a collective of eight fake devices may wait long for its last member; the default kills.
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=60",
    "--xla_cpu_collective_call_terminate_timeout_seconds=240",
    # Compiling is most of what tests do, and these two make it five times cheaper (a train step: 19 s -> 3.5 s).
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
)
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *FLAGS)).strip()
os.environ["JAX_PLATFORMS"] = "cpu"
# XLA's pools have a thread for each device, which waits in collectives; with more, nothing else waits for a thread.
os.environ.setdefault("NPROC", "32")
# Compiled programs are shared with the processes that tests start, and thrown away with the session.
_CACHE = tempfile.TemporaryDirectory(prefix="vdm_jax_cache_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)

from absl import flags  # noqa: E402  (Orbax and TFDS read absl flags, which must be parsed once)

if not flags.FLAGS.is_parsed():
    flags.FLAGS(["pytest"])

import jax  # noqa: E402
import pytest  # noqa: E402

from tests.live_report import LiveReport  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    """The process that a person looks at says what happens."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(LiveReport(config))


@pytest.fixture(scope="module", autouse=True)
def _programs_end_with_their_file():
    """Thousands of compiled programs in one process come near the limits on memory and on memory maps."""
    yield
    jax.clear_caches()
