import jax.numpy as jnp
import pytest

from vdm_jax.attention import CAUSAL, FULL, KERNELS, Policy, check_kernel, choose_kernel
from vdm_jax.attention.choice import kernel_for

MASKED = Policy(key_mask=jnp.ones((1, 512), bool))
DENSE = Policy(mask=jnp.ones((1, 1, 64, 64), bool))
PACKED = Policy(q_segments=jnp.zeros((1, 64), int), k_segments=jnp.zeros((1, 64), int))
LONG, TEXT, FRAMES = 32_760, 512, 21
BF16 = jnp.bfloat16


def auto(platform, n_q, n_k, policy=FULL, batch=1, d=128, dtype=BF16):
    name, why = choose_kernel(policy, (batch, 40, n_q, d), (batch, 40, n_k, d), dtype, platform)
    assert KERNELS[name].refuses(policy, (batch, 40, n_q, d), (batch, 40, n_k, d), dtype, platform) is None
    assert "\n" not in why
    return name, why


@pytest.mark.parametrize(
    ("platform", "sizes", "policy", "name", "reason"),
    [
        ("cpu", (64, 64), FULL, "chunked", "on a CPU"),
        ("tpu", (LONG, LONG), FULL, "splash", "honours the policy"),
        ("tpu", (LONG, LONG), Policy(causal=True, unit=1560), "splash", "honours the policy"),
        ("tpu", (LONG, TEXT), MASKED, "splash", "honours the policy"),
        ("tpu", (LONG, LONG), PACKED, "splash", "honours the policy"),
        ("tpu", (FRAMES, FRAMES), CAUSAL, "reference", "fill little of one"),
        ("tpu", (64, 64), DENSE, "reference", "'splash' cannot honour the dense mask of the policy, and"),
        ("tpu", (LONG, LONG), DENSE, "chunked", "would fill the memory"),
        ("gpu", (LONG, LONG), FULL, "cudnn", "honours the policy"),
        ("gpu", (LONG, LONG), CAUSAL, "cudnn", "honours the policy"),
        ("gpu", (LONG, TEXT), MASKED, "cudnn", "honours the policy"),
        ("gpu", (FRAMES, FRAMES), FULL, "cudnn", "honours the policy"),
        ("gpu", (LONG, LONG), Policy(causal=True, unit=1560), "chunked", "'cudnn' counts single tokens"),
        ("gpu", (64, 64), PACKED, "reference", "'cudnn' cannot honour segments"),
    ],
)
def test_auto_goes_by_platform_policy_and_length(platform, sizes, policy, name, reason):
    got, why = auto(platform, *sizes, policy)
    assert got == name
    assert reason in why


def test_auto_goes_by_head_size_dtype_and_batch():
    assert auto("gpu", LONG, LONG, d=100)[0] == "chunked"
    assert auto("gpu", LONG, LONG, dtype=jnp.float32)[0] == "chunked"
    assert auto("tpu", LONG, LONG, dtype=jnp.float16)[0] == "chunked"
    assert auto("tpu", FRAMES, FRAMES, batch=100)[0] == "reference"
    assert auto("tpu", FRAMES, FRAMES, batch=10_000)[0] == "chunked"


@pytest.mark.parametrize(
    ("kernel", "platform", "policy", "dtype", "message"),
    [
        ("splash", "cpu", FULL, BF16, "kernel: 'splash' runs on TPUs, and this program is for a cpu; 'chunked' can"),
        ("splash", "tpu", DENSE, BF16, "kernel: 'splash' cannot honour the dense mask"),
        ("splash", "tpu", FULL, jnp.float16, "kernel: 'splash' computes in float32 or bfloat16, not float16"),
        ("triton", "tpu", FULL, BF16, "kernel: 'triton' runs on GPUs, and this program is for a tpu; 'splash' can"),
        ("triton", "gpu", DENSE, BF16, "kernel: 'triton' cannot honour the dense mask"),
        ("cudnn", "tpu", FULL, BF16, "kernel: 'cudnn' runs on NVIDIA GPUs, and this program is for a tpu"),
        ("cudnn", "gpu", FULL, jnp.float32, "kernel: 'cudnn' computes in bfloat16 or float16, not float32"),
        ("cudnn", "gpu", DENSE, BF16, "kernel: 'cudnn' cannot honour the dense mask"),
        ("cudnn", "gpu", PACKED, BF16, "kernel: 'cudnn' cannot honour segments; 'reference' can"),
        ("cudnn", "gpu", Policy(window=3), BF16, "kernel: 'cudnn' cannot honour a window without causal"),
        ("cudnn", "gpu", Policy(causal=True, unit=4), BF16, "kernel: 'cudnn' .* cannot honour unit=4"),
        ("cudnn", "gpu", Policy(causal=True, key_mask=MASKED.key_mask), BF16, "kernel: 'cudnn' .* with a key_mask"),
    ],
)
def test_a_kernel_that_cannot_honour_it_is_refused_in_one_line(kernel, platform, policy, dtype, message):
    with pytest.raises(ValueError, match=message) as error:
        kernel_for(kernel, policy, (1, 2, 64, 128), (1, 2, 64, 128), dtype, platform)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("d", "n_k", "message"), [(12, 64, "multiple of 8"), (264, 64, "256 at most"), (64, 80, "64 queries and 80 keys")]
)
def test_cudnn_refuses_shapes_it_does_not_know(d, n_k, message):
    with pytest.raises(ValueError, match=message):
        kernel_for("cudnn", CAUSAL, (1, 2, 64, d), (1, 2, n_k, d), BF16, "gpu")


def test_check_kernel_takes_every_known_name():
    for name in ("auto", *KERNELS):
        check_kernel(name)
    with pytest.raises(ValueError, match="kernel: unknown 'flash'"):
        check_kernel("flash")
