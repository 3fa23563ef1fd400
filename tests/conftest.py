"""Eight fake CPU devices for every test, set before JAX starts."""

import os
import tempfile

FLAGS = (
    "--xla_force_host_platform_device_count=8",
    # On two busy cores a collective of eight fake devices may wait long for its last member; the default kills.
    "--xla_cpu_collective_call_warn_stuck_timeout_seconds=120",
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
    # Compiling is most of what tests do, and these two make it five times cheaper (a train step: 19 s -> 3.5 s).
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
)
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *FLAGS)).strip()
os.environ["JAX_PLATFORMS"] = "cpu"
# Compiled programs are shared with the processes that tests start, and thrown away with the session.
_CACHE = tempfile.TemporaryDirectory(prefix="vdm_jax_cache_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)

from absl import flags  # noqa: E402  (Orbax and TFDS read absl flags, which must be parsed once)

if not flags.FLAGS.is_parsed():
    flags.FLAGS(["pytest"])
