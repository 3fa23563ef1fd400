"""Folding of leading dims where XLA's CPU needs it, the identity everywhere else.

On a CPU (jax 0.10.2, 2 cores, float32):

- the weight gradient of `[B, N, D] @ [D, E]`, two summed dims, is 2.4 times slower than that of `[B * N, D]`;
- a sum over the tokens of `[1, N, D]` or `[1, T, N, D]` takes 5 to 14 ms where `[N, D]` and `[T, N, D]` take 0.1
  (4 MiB): its reductions run on one thread and out of order as soon as the leading dim is 1.

On accelerators neither is so, and with tokens cut over `context` merging the dims would gather them.
"""

import jax

from vdm_jax.sharding.context import axis_size, target_platform


def folds() -> bool:
    """Whether `fold` does anything in the program being traced."""
    return target_platform() == "cpu" and axis_size("context") == 1


def fold(x: jax.Array, keep: int) -> jax.Array:
    """`[..., *last] -> [N, *last]` with the last `keep` dims as they are; `x` itself where folding does not help."""
    return x.reshape(-1, *x.shape[x.ndim - keep :]) if folds() else x
