"""Low-rank adapters beside the linear layers and convolutions of a frozen network (LoRA, 2106.09685).

    y = W x + c + s B (A x)        A: in -> r,  B: r -> out,  s = alpha / r, or alpha / sqrt(r) (rsLoRA, 2312.03732)

B starts at zero, so the network starts as it was.  The product B A is never formed in training: neither it nor a
gradient of its size exists.  The pair of a layer stands beside its kernel, whose path and value stay:

    blocks/attention/out/kernel                  [layers, in, out]
    blocks/attention/out/lora/a/kernel           [layers, in, r]       cut over the mesh as the inputs of `kernel` are
    blocks/attention/out/lora/b/kernel           [layers, r, out]      ... and as its outputs

A mesh axis that cuts neither cuts r (`rank` of the rules), so that no pair is held whole on many devices.
Queries, keys and values that are one kernel here are matrices of their own: `qkv/lora/q/a/kernel`, and `k`, `v`.  What
trains is `lora` (`nn.path_filter`).
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from vdm_jax.adapters.splice import swap
from vdm_jax.nn.conv import Conv
from vdm_jax.nn.linear import Linear
from vdm_jax.nn.path_filter import Path, select
from vdm_jax.nn.stack import stack

Array = jax.Array
TAG = "lora"
MATRICES = "qkv"  # names of the last two or all three matrices of a fused kernel
FUSED_AXES = ("heads", None, "head_dim")  # the output dims of one


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Which layers get a pair, and of what rank.

    Attributes:
      targets: patterns (`nn.path_filter`) of layers, on the names here (`attention/qkv`, `cross`) or on those of the
        published class (`to_q`, `attn1.to_k`, `blocks.*.ffn`); `!norm1` takes away.
      rank: r.
      alpha: of the scale s; None is r, which makes s = 1.
      rank_stabilised: s = alpha / sqrt(r).
    """

    targets: tuple[str, ...]
    rank: int = 16
    alpha: float | None = None
    rank_stabilised: bool = False

    def __post_init__(self):
        if not self.targets:
            raise ValueError("targets: () adapts nothing; allowed: patterns of layers, such as 'to_q' or 'attention'")
        if self.rank < 1:
            raise ValueError(f"rank: {self.rank!r} must be 1 or more")
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"alpha: {self.alpha!r} must be above 0, or None for the rank")

    @property
    def scale(self) -> float:
        """s."""
        alpha = self.rank if self.alpha is None else self.alpha
        return alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


@dataclasses.dataclass(frozen=True, order=True)
class Site:
    """A matrix that can have a pair.

    Attributes:
      layer: path of its layer.
      matrix: which of a fused kernel, a letter of `MATRICES`; empty where the kernel is one matrix.
    """

    layer: Path
    matrix: str = ""

    @property
    def name(self) -> str:
        """Dotted path."""
        return ".".join((*self.layer, *self.matrix))


class LowRank(nnx.Module):
    """`s B (A x)`."""

    def __init__(self, a: Linear | Conv, b: Linear, scale: float):
        self.a, self.b, self.scale = a, b, scale

    def __call__(self, x: Array) -> Array:
        return self.b(self.scale * self.a(x))


class AdaptedLinear(Linear):
    """A linear layer and its pair, or the pairs of some of its fused matrices."""

    def __init__(self, base: Linear, pairs: Mapping[str, LowRank]):
        self.out_dims, self.kernel, self.bias = base.out_dims, base.kernel, base.bias
        self.lora = pairs[""] if "" in pairs else nnx.Dict(pairs)

    def __call__(self, x: Array) -> Array:
        y = super().__call__(x)
        if isinstance(self.lora, LowRank):
            return y + self.lora(x)
        rest = jnp.zeros((*y.shape[:-2], y.shape[-1]), y.dtype)
        parts = [self.lora[name](x) if name in self.lora else rest for name in _matrices(y.shape[-2])]
        return y + jnp.stack(parts, axis=-2)


class AdaptedConv(Conv):
    """A convolution and its pair: A has its window, B has none."""

    def __init__(self, base: Conv, pairs: Mapping[str, LowRank]):
        self.stride, self.padding, self.kernel, self.bias = base.stride, base.padding, base.kernel, base.bias
        self.lora = pairs[""]

    def __call__(self, x: Array) -> Array:
        return super().__call__(x) + self.lora(x)


def sites(network: nnx.Module) -> list[Site]:
    """Every matrix of a network that can have a pair, in a fixed order."""
    found = []
    for path, module in nnx.iter_modules(network):
        if isinstance(module, (Linear, Conv)):
            layer = tuple(map(str, path))
            names = _matrices(module.out_dims[-2]) if _is_fused(module) else ("",)
            found += [Site(layer, name) for name in names]
    return sorted(found)


def add_lora(
    network: nnx.Module, config: LoRAConfig, rngs: nnx.Rngs, published: Mapping[Site, str] | None = None
) -> list[Site]:
    """Puts pairs beside the layers that `config.targets` choose, in place.

    Args:
      network: any; arrays may be abstract.
      config: which layers, and the pairs.
      rngs: of the values of A.
      published: dotted names of matrices in published files (`{i}` for the number of a stacked layer), by which they
        can be chosen too.

    Returns:
      What has a pair now.

    Raises:
      ValueError: a target that matches nothing.
    """
    chosen = choose(sites(network), config.targets, published or {})
    for layer in dict.fromkeys(site.layer for site in chosen):
        matrices = [site.matrix for site in chosen if site.layer == layer]
        swap(network, layer, lambda base, matrices=matrices: _adapted(base, config, matrices, rngs))
    return chosen


def choose(found: Collection[Site], targets: Collection[str], published: Mapping[Site, str]) -> list[Site]:
    """The sites whose name here or published name matches; see `add_lora`."""
    # Both names one after the other make one path, so that a pattern or its `!` finds either.
    named = {(*site.layer, *site.matrix, *published.get(site, "").split(".")): site for site in found}
    patterns = [pattern.replace(".", "/") for pattern in targets]
    return sorted(named[name] for name in select(named.keys(), patterns, "targets"))


def merged(params: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """The parameters of the network without pairs that computes the same: `W + s B A`.

    Args:
      params: nested dict of arrays, of a network or of several.
      scale: `LoRAConfig.scale`.

    Returns:
      A nested dict with the paths that there were before `add_lora`; sums are taken in float32.
    """
    flat = flatten_dict(params)
    whole = {path: leaf for path, leaf in flat.items() if TAG not in path}
    for path, a in flat.items():
        if TAG in path and path[-2:] == ("a", "kernel"):
            at = path.index(TAG)
            layer, matrix = (*path[:at], "kernel"), "".join(path[at + 1 : -2])
            whole[layer] = _plus(whole[layer], matrix, a, flat[*path[:-2], "b", "kernel"], scale)
    return unflatten_dict(whole)


def beside(params: Mapping[str, Any], pairs: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a network with pairs that were trained beside those of another, of the same layers.

    So what was learned on pictures goes into the network of videos that was built on the same one of pictures
    (arXiv 2402.00769): `merged(beside(params, pairs), scale)`.

    Args:
      params: nested dict of a network without pairs.
      pairs: nested dict that holds pairs; the rest of it is not looked at.

    Raises:
      ValueError: no pair, or some whose layer is not there or of another size; names all of these.
    """
    flat, held = flatten_dict(params), {path: leaf for path, leaf in flatten_dict(pairs).items() if TAG in path}
    if not held:
        raise ValueError("pairs: there are none among these weights")
    wrong = []
    for path, a in held.items():
        if path[-2:] == ("a", "kernel"):
            at = path.index(TAG)
            layer, fused = path[:at], len(path) > at + 3
            wanted, kernel = _between(a, held[*path[:-2], "b", "kernel"]), flat.get((*layer, "kernel"))
            found = None if kernel is None else (*kernel.shape[:-2], kernel.shape[-1]) if fused else kernel.shape
            if found != wanted:
                here = "there is no such layer" if found is None else f"{list(found)} here"
                wrong.append(f"{'/'.join(path[:-2])} {list(wanted)} ({here})")
    if wrong:
        raise ValueError(f"pairs: {len(wrong)} are of another network: {', '.join(wrong)}")
    return unflatten_dict({**flat, **held})


def _between(a: Array, b: Array) -> tuple[int, ...]:
    """The shape of the kernel that a pair stands beside, one matrix of it where it is fused."""
    layers = min(a.ndim, b.ndim) - 2  # A may have a window, and B several dims of outputs
    return (*a.shape[:-1], *b.shape[layers + 1 :])


def _plus(kernel: Array, matrix: str, a: Array, b: Array, scale: float) -> Array:
    """`W + s B A` by operators alone, so that arrays of numpy stay such and nothing is compiled for them."""
    names = _matrices(kernel.shape[-2]) if matrix else ""
    shape = (*kernel.shape[:-2], 1, kernel.shape[-1]) if matrix else kernel.shape
    stacked = a.ndim + b.ndim + bool(matrix) - kernel.ndim == 3  # both have a dim of layers
    layers, rank = a.shape[:stacked], a.shape[-1]
    a, b = (x.astype(np.float32).reshape(*layers, *to) for x, to in ((a, (-1, rank)), (b, (rank, -1))))
    delta = scale * (a @ b).reshape(shape)
    if matrix:
        delta = delta * (np.arange(len(names)) == names.index(matrix)).astype(np.float32)[:, None]
    return (kernel.astype(np.float32) + delta).astype(kernel.dtype)


def _matrices(count: int) -> str:
    return MATRICES[-count:]


def _axes(layer: Linear | Conv) -> tuple[str | None, ...]:
    """Logical names of the dims of a kernel."""
    return tuple(layer.kernel.get_metadata()["out_sharding"])


def _is_fused(layer: Linear | Conv) -> bool:
    return isinstance(layer, Linear) and _axes(layer)[-3:] == FUSED_AXES


def _adapted(base: Linear | Conv, config: LoRAConfig, matrices: list[str], rngs: nnx.Rngs) -> Linear | Conv:
    """The layer with a pair for each of these matrices."""
    axes = _axes(base)
    depth = base.kernel.shape[0] if axes[0] == "layers" else None
    make = {name: _maker(base, axes if depth is None else axes[1:], config, name) for name in matrices}
    pairs = {name: f(rngs) if depth is None else stack(f, depth, rngs) for name, f in make.items()}
    return (AdaptedConv if isinstance(base, Conv) else AdaptedLinear)(base, pairs)


def _maker(base: Linear | Conv, axes: tuple[str | None, ...], config: LoRAConfig, matrix: str):
    """`rngs -> LowRank` for one layer of the base, whose kernel has these logical axes."""
    shape = base.kernel.shape[-len(axes) :]
    if isinstance(base, Conv):
        *window, inputs, outputs = shape
        in_axis, out_dims, out_axes = axes[-2], (outputs,), axes[-1:]
    else:
        window, inputs, in_axis, out_dims, out_axes = (), shape[0], axes[0], shape[1:], axes[1:]
        if matrix:
            out_dims, out_axes = (out_dims[0], out_dims[2]), (out_axes[0], out_axes[2])

    limit = 1 / math.sqrt(math.prod(window) * inputs)

    def uniform(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    def make(rngs: nnx.Rngs) -> LowRank:
        rank, zeros = config.rank, jax.nn.initializers.zeros
        b = Linear(rank, out_dims, axes=("rank", *out_axes), bias=False, init=zeros, rngs=rngs)
        if not window:
            a = Linear(inputs, rank, axes=(in_axis, "rank"), bias=False, init=uniform, rngs=rngs)
            return LowRank(a, b, config.scale)
        where = {"stride": base.stride, "padding": base.padding, "axes": (in_axis, "rank")}
        return LowRank(Conv(inputs, rank, tuple(window), bias=False, init=uniform, rngs=rngs, **where), b, config.scale)

    return make
