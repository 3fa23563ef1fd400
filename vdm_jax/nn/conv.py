"""Convolutions of channels-last arrays over their last one, two or three dims before the channels.

    y[..., p, o] = sum_{k, i} x[..., p * stride + k - before, i] kernel[k, i, o] + bias[o]

Dims in front of those the window covers are batch, so a clip `[B, T, H, W, C]` under a window of two dims is B T
pictures.  A window of (k, 1, 1), and every window of ones, is k matrix products over shifted views.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from vdm_jax.nn.linear import Initializer, param
from vdm_jax.sharding.context import partitioned
from vdm_jax.sharding.rules import constrain

Array = jax.Array
Padding = tuple[tuple[int, int], ...]
_LETTERS = "THW"
_NAMES = ("batch", "frames", "height", "width", None)  # of a clip's dims


class Conv(nnx.Module):
    """`[..., *S, in] -> [..., *S', out]`, kernel `[*window, in, out]`.

    Args:
      in_channels, out_channels: of the last dim.
      window: size along each of the convolved dims, 1 to 3 of them.
      stride: of all of them, or of each.
      padding: zeros (before, after) each convolved dim; None is half a window on both sides, which keeps sizes.
      axes: logical names of (in, out).
      bias: whether to add one.
      init: of the kernel; default is LeCun-normal.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        window: tuple[int, ...],
        *,
        rngs: nnx.Rngs,
        stride: int | tuple[int, ...] = 1,
        padding: Padding | None = None,
        axes: tuple[str | None, str | None] = ("embed", "embed_out"),
        bias: bool = True,
        init: Initializer | None = None,
    ):
        dims = len(window)
        self.stride = (stride,) * dims if isinstance(stride, int) else tuple(stride)
        self.padding = tuple((k // 2, k // 2) for k in window) if padding is None else tuple(padding)
        assert len(self.stride) == len(self.padding) == dims, f"{stride} and {padding} do not fit a window {window}"
        init = init or jax.nn.initializers.lecun_normal()
        self.kernel = param(rngs, init, (*window, in_channels, out_channels), (*(None,) * dims, *axes))
        self.bias = param(rngs, jax.nn.initializers.zeros, (out_channels,), axes[1:]) if bias else None

    def __call__(self, x: Array) -> Array:
        kernel = self.kernel[...].astype(x.dtype)
        if partitioned():
            window = kernel.shape[:-2]
            y = _placed(_on_mesh(_placed(x, window), _whole(kernel), self.stride, self.padding), window)
        else:
            y = convolve(x, kernel, self.stride, self.padding)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


def _whole(kernel: Array) -> Array:
    """A kernel gathered from the mesh.

    XLA (jax 0.10.2) makes wrong sums, and says nothing, where the channels of a small convolution, or of its gradient,
    are cut over the axis that cuts the pixels; a layer's kernel would be gathered in any case.
    """
    return jax.lax.with_sharding_constraint(kernel, PartitionSpec())


def _placed(x: Array, window: tuple[int, ...]) -> Array:
    """A clip, and so its gradient, cut over the mesh as networks cut it between their layers, in a way that sums right.

    That is not over a dim with less than a window: XLA (jax 0.10.2) makes the gradient of a picture of 2 x 2 under a
    window of 3 x 3 a whole factor too large, where the batch is cut over another axis and a third one cuts neither.
    """
    if x.ndim != len(_NAMES):
        return x
    least = (1,) * (x.ndim - 1 - len(window)) + window + (1,)
    return constrain(x, *(name if size >= k else None for name, size, k in zip(_NAMES, x.shape, least)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _on_mesh(x: Array, kernel: Array, stride: tuple[int, ...], padding: Padding) -> Array:
    """`convolve`, whose kernel's gradient is taken of whole pictures.

    It is the other sum that XLA (jax 0.10.2) makes wrong: where the batch is cut over one axis, pixels over another,
    and a third one cuts neither.
    """
    return convolve(x, kernel, stride, padding)


def _forward(x: Array, kernel: Array, stride, padding):
    return convolve(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, kept: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = kept
    dims = kernel.ndim - 2
    names = ("batch", "frames")[: x.ndim - dims - 1]
    names += (None,) * (x.ndim - len(names))
    (of_x,) = jax.vjp(lambda x: convolve(x, kernel, stride, padding), x)[1](grad)
    pull = jax.vjp(lambda kernel: convolve(constrain(x, *names), kernel, stride, padding), kernel)[1]
    return of_x, *pull(constrain(grad, *names))


_on_mesh.defvjp(_forward, _backward)


def convolve(x: Array, kernel: Array, stride: tuple[int, ...], padding: Padding) -> Array:
    """The convolution without bias; arguments as in `Conv`, `kernel [*window, in, out]` in the dtype of `x`."""
    dims = kernel.ndim - 2
    batch, sizes = x.shape[: x.ndim - dims - 1], x.shape[x.ndim - dims - 1 : -1]
    x = x.reshape(math.prod(batch), *sizes, x.shape[-1])
    if math.prod(kernel.shape[1:-2]) == 1 and stride == (1,) * dims and not any(map(any, padding[1:])):
        y = _shifted(x, kernel.reshape(kernel.shape[0], *kernel.shape[-2:]), padding[0])
    else:
        letters = _LETTERS[-dims:]
        layout = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
        y = jax.lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=layout)
    return y.reshape(*batch, *y.shape[1:])


def _shifted(x: Array, kernel: Array, padding: tuple[int, int]) -> Array:
    """A window of k along the second dim alone: `x [N, T, ..., in]`, `kernel [k, in, out]`."""
    length = x.shape[1] + sum(padding) - kernel.shape[0] + 1
    x = jnp.pad(x, ((0, 0), padding, *((0, 0),) * (x.ndim - 2))) if any(padding) else x
    views = (jax.lax.slice_in_dim(x, k, k + length, axis=1) for k in range(kernel.shape[0]))
    y = sum(view.reshape(-1, x.shape[-1]) @ kernel[k] for k, view in enumerate(views))
    return y.reshape(x.shape[0], length, *x.shape[2:-1], -1)
