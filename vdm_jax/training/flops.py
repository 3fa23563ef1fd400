"""Peak arithmetic rates and MFU.

    MFU = (model FLOPs per step) / (seconds per step * devices * peak FLOP/s per device)

"Model FLOPs" are those the mathematics of the model needs (a multiply-add is 2; backward is twice forward; what
remat computes again is not counted), after PaLM (2204.02311, appendix B).  The peak is the vendor's dense bf16 rate
for what *JAX* calls one device.  Where no peak is known, as on a CPU, MFU is unknown and is left out: a made-up
denominator makes a made-up percentage.
"""

import math

# First matching start of `jax.Device.device_kind` -> dense bf16 FLOP/s of one JAX device.
#
# TPU: Google Cloud TPU documentation, per chip, divided by the JAX devices of a chip (two up to v3, and two again on
#   v7x; one else).
# NVIDIA: data sheets, without sparsity (from the L4 on, they print twice this number, "with sparsity").
PEAK_BF16: tuple[tuple[str, float], ...] = (
    ("TPU v2", 22.5e12),
    ("TPU v3", 61.5e12),
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5", 459e12),
    ("TPU v6", 918e12),
    ("TPU7x", 1153.5e12),
    ("NVIDIA B200", 2250e12),
    ("NVIDIA GB200", 2500e12),
    ("NVIDIA H200", 989.4e12),
    ("NVIDIA GH200", 989.4e12),
    ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA H100 NVL", 835e12),
    ("NVIDIA H100", 989.4e12),
    ("NVIDIA A100", 312e12),
    ("NVIDIA L40S", 362e12),
    ("NVIDIA L4", 121e12),
)


def peak_flops(device_kind: str) -> float | None:
    """Peak dense bf16 FLOP/s of one JAX device of this kind, or None where it is not known (every CPU)."""
    return next((peak for start, peak in PEAK_BF16 if device_kind.startswith(start)), None)


def mfu(flops_per_step: float | None, seconds_per_step: float, devices: int, device_kind: str) -> float | None:
    """Model FLOPs utilisation in [0, 1].

    Args:
      flops_per_step: model FLOPs of one optimiser step over all devices; None if the caller does not know.
      seconds_per_step: wall clock.
      devices: number of JAX devices.
      device_kind: `jax.Device.device_kind`.

    Returns:
      The utilisation, or None where a factor of it is unknown.
    """
    peak = peak_flops(device_kind)
    if flops_per_step is None or peak is None or not (seconds_per_step > 0 and math.isfinite(seconds_per_step)):
        return None
    return flops_per_step / (seconds_per_step * devices * peak)
