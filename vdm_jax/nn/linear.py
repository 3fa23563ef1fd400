"""Linear layers over the last dim, with named output dims.

Parameters are created in float32 with their logical axes as metadata (`embed`, `mlp`, `heads` ...) and used in
the dtype of the input, so the precision of a network is decided by whoever calls it.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from vdm_jax.nn.folding import fold, folds

Array = jax.Array
Initializer = jax.nn.initializers.Initializer


def param(rngs: nnx.Rngs, init: Initializer, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> nnx.Param:
    """A float32 parameter that knows the logical name of each of its dims.

    `eager_sharding` is off so that a network can be built without a mesh; the trainer places parameters itself.
    """
    assert len(axes) == len(shape), f"{axes} does not name the dims of {shape}"
    return nnx.Param(init(rngs.params(), shape, jnp.float32), out_sharding=axes, eager_sharding=False)


class Linear(nnx.Module):
    """`[..., in] -> [..., *out]`, kernel `[in, *out]`.

    Args:
      in_dim: size of the last dim of the input.
      out_dims: sizes that replace it, `(heads, 3, head_dim)` for a fused QKV projection.
      axes: logical names of `(in, *out)`.
      bias: whether to add one.
      init: of the kernel; default is Xavier-uniform on the `[in, prod(out)]` matrix.
    """

    def __init__(
        self,
        in_dim: int,
        out_dims: int | tuple[int, ...],
        *,
        axes: tuple[str | None, ...],
        rngs: nnx.Rngs,
        bias: bool = True,
        init: Initializer | None = None,
    ):
        self.out_dims = (out_dims,) if isinstance(out_dims, int) else tuple(out_dims)
        init = init or xavier_uniform(in_dim, math.prod(self.out_dims))
        self.kernel = param(rngs, init, (in_dim, *self.out_dims), axes)
        self.bias = param(rngs, jax.nn.initializers.zeros, self.out_dims, axes[1:]) if bias else None

    def __call__(self, x: Array) -> Array:
        kernel = self.kernel[...].astype(x.dtype)
        if folds():
            y = fold(x, 1) @ kernel.reshape(kernel.shape[0], -1)
            y = y.reshape(*x.shape[:-1], *self.out_dims)
        else:
            y = jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


def xavier_uniform(fan_in: int, fan_out: int) -> Initializer:
    """Uniform in +-sqrt(6 / (fan_in + fan_out)), for kernels whose output dims are split."""
    limit = math.sqrt(6.0 / (fan_in + fan_out))
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -limit, limit)
