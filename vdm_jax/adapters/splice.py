"""Putting modules into a network that is there already: find layers, and swap each for one that is built around it.

    for path in find(network, Block):
        swap(network, path, lambda old: Adapted(old, rngs))

An adapter therefore needs no word in the code of the models.  The parameters of what is swapped keep their paths if
the new module holds the old one's attributes under the same names (a subclass that copies them), so weights of the base
load into an adapted network and the other way round.
"""

from collections.abc import Callable

from flax import nnx

from vdm_jax.nn.path_filter import Path


def find(network: nnx.Module, kind: type | tuple[type, ...]) -> list[Path]:
    """Paths of all modules of a kind, in a fixed order; that of the network itself is ()."""
    return sorted(tuple(map(str, path)) for path, module in nnx.iter_modules(network) if isinstance(module, kind))


def at(network: nnx.Module, path: Path) -> nnx.Module:
    """The module at a path."""
    for key in path:
        network = network[int(key)] if key.isdigit() else getattr(network, key)
    return network


def swap(network: nnx.Module, path: Path, make: Callable[[nnx.Module], nnx.Module]) -> nnx.Module:
    """Puts `make(old)` where the module at `path` is, in place, and returns it.

    Raises:
      ValueError: the path is (), which nothing holds.
    """
    if not path:
        raise ValueError("path: () is the network itself; only what is inside it can be swapped")
    *above, last = path
    parent, new = at(network, tuple(above)), make(at(network, path))
    if last.isdigit():
        parent[int(last)] = new
    else:
        setattr(parent, last, new)
    return new
