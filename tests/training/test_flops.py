"""MFU: known where the peak is known, absent elsewhere."""

import jax
import pytest

from vdm_jax.training.flops import PEAK_BF16, mfu, peak_flops


def test_a_cpu_has_no_known_peak():
    assert peak_flops(jax.devices()[0].device_kind) is None
    assert mfu(1e12, 1.0, 1, "cpu") is None


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v3", 61.5e12),
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),  # not the entry of `TPU v5`, which is a v5p
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.4e12),
    ],
)
def test_the_kinds_jax_reports_find_their_entry(kind, peak):
    assert peak_flops(kind) == peak


def test_no_entry_is_hidden_by_one_before_it():
    for place, (start, peak) in enumerate(PEAK_BF16):
        assert peak_flops(start) == peak, f"{start} is never reached: an entry before {place} begins like it"


def test_mfu_is_the_share_of_the_peak():
    peak = peak_flops("TPU v4")
    assert mfu(peak * 2.0 * 8, 4.0, 8, "TPU v4") == pytest.approx(0.5)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_no_time_no_mfu(seconds):
    assert mfu(1e12, seconds, 1, "TPU v4") is None


def test_unknown_flops_no_mfu():
    assert mfu(None, 1.0, 1, "TPU v4") is None
