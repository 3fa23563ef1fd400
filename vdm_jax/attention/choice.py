"""The kernels there are, and which one `auto` means.

Adding a kernel is one file with a class that follows `kernel.Kernel`, and one line in `KERNELS`.
"""

import math

from vdm_jax.attention.chosen import note
from vdm_jax.attention.chunked import Chunked
from vdm_jax.attention.cudnn import CuDNN
from vdm_jax.attention.kernel import Kernel
from vdm_jax.attention.policy import Policy
from vdm_jax.attention.reference import Reference
from vdm_jax.attention.splash import Splash
from vdm_jax.attention.triton import Triton
from vdm_jax.errors import did_you_mean

KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in (Reference(), Chunked(), Splash(), CuDNN(), Triton())}
FUSED = {"tpu": "splash", "gpu": "cudnn"}  # platform -> its own kernel
FEW = 2**26  # scores: 256 MiB in float32
SMALLEST = 64  # shorter sequences than this fill less than half of one of splash's tiles


def check_kernel(kernel: str) -> None:
    """Raises ValueError unless `kernel` is `auto` or one of `KERNELS`."""
    if kernel != "auto" and kernel not in KERNELS:
        raise ValueError(f"kernel: {did_you_mean(kernel, ['auto', *KERNELS])}")


def choose_kernel(
    policy: Policy, q_shape: tuple, k_shape: tuple, dtype, platform: str, moving: bool = False
) -> tuple[str, str]:
    """What `auto` means.

    Args:
      policy: what is seen.
      q_shape, k_shape: `[B, H, N, D]` of the operands on one device.
      dtype: of the operands.
      platform: `cpu`, `gpu` or `tpu`.
      moving: whether the operands are a tile whose place among the positions of the policy is found at run time.

    Returns:
      The name of a kernel, and one line of why.
    """
    if policy.bias is not None:
        return "reference", "a bias of the scores has its gradient only where they are formed in full"
    if platform not in FUSED:
        return "chunked", "on a CPU the blockwise backward pass is the fastest"
    name, (b, h, n_q, d), n_k = FUSED[platform], q_shape, k_shape[2]
    why = _refuses(KERNELS[name], policy, q_shape, k_shape, dtype, platform, moving)
    if why is None and name == "splash" and min(n_q, n_k) < SMALLEST:
        why = f"works in tiles of 128, and {n_q} x {n_k} scores fill little of one"
    if why is None:
        return name, f"the fused kernel of a {platform} honours the policy ({n_q} x {n_k} scores, heads of {d})"
    if math.prod((b, h, n_q, n_k)) <= FEW:
        return "reference", f"{name!r} {why}, and {b * h} x {n_q} x {n_k} scores are few"
    return "chunked", f"{name!r} {why}, and {b * h} x {n_q} x {n_k} scores would fill the memory"


def kernel_for(
    name: str, policy: Policy, q_shape: tuple, k_shape: tuple, dtype, platform: str, moving: bool = False
) -> Kernel:
    """The kernel of a name (or of `auto`); arguments as in `choose_kernel`.

    Raises:
      ValueError: no such kernel, or it cannot honour the policy, the shapes, the dtype or the platform.
    """
    check_kernel(name)
    auto, _ = choose_kernel(policy, q_shape, k_shape, dtype, platform, moving)
    kernel = KERNELS[auto if name == "auto" else name]
    why = _refuses(kernel, policy, q_shape, k_shape, dtype, platform, moving)
    if why is not None:
        raise ValueError(f"kernel: {name!r} {why}; {auto!r} can")

    def choose(there: str | None) -> tuple[str, str]:
        chosen, reason = choose_kernel(policy, q_shape, k_shape, dtype, there or platform, moving)
        return (chosen, reason) if name == "auto" else (name, f"asked for ({q_shape[2]} x {k_shape[2]} scores)")

    note("kernel", choose)
    return kernel


def _refuses(kernel: Kernel, policy: Policy, q_shape, k_shape, dtype, platform: str, moving: bool) -> str | None:
    if moving and not kernel.anywhere:
        return "counts positions from its first query and key, and a ring needs them counted from elsewhere"
    if policy.bias is not None and not kernel.differentiable:
        return "has no gradient of a bias of the scores"
    return kernel.refuses(policy, q_shape, k_shape, dtype, platform)
