"""Which layers of a network have a tap (`nn.taps`), chosen by the path of the layer.

A tapped layer is what it was, with the same parameters at the same paths: only its class is a subclass, whose call
comes by the tap.  So no model has a word about taps, and a network with taps that nobody reads compiles to the same
program.  Needed wherever features of a frozen network are used: as perception (VD-IT), as a discriminator (AccVideo),
or put into another branch of the same network (ZeroSmooth).
"""

import functools
from typing import Any

import jax
from flax import nnx

from vdm_jax.adapters.splice import at, swap
from vdm_jax.errors import did_you_mean
from vdm_jax.nn.path_filter import Path, matches
from vdm_jax.nn.taps import Site, at_site

Array = jax.Array
INPUT = ":in"


def tapped(network: nnx.Module, *patterns: str) -> nnx.Module:
    """Gives layers a tap, in place.

    Args:
      network: any.
      patterns: of paths of layers (`nn.path_filter`), whose tag at the end is that of the layer: `units/spatial`,
        `mid`, `qkv`; with `:in` behind it the tap is at what the layer is given first, else at what it returns (the
        first part, where a layer returns several).

    Returns:
      The network; a tap is called like the path of its layer, as in `units/spatial/attention` or
      `units/spatial/attention:in`.

    Raises:
      ValueError: a pattern of no layer, or a layer chosen twice.
    """
    paths = [tuple(map(str, path)) for path, module in nnx.iter_modules(network) if path and callable(module)]
    chosen: dict[Path, bool] = {}
    for pattern in patterns:
        bare = pattern.removesuffix(INPUT)
        found = [path for path in paths if _ends(path, bare)]
        if not found:
            raise ValueError(f"taps: no layer matches {bare!r}; {did_you_mean(bare, {path[-1] for path in paths})}")
        for path in found:
            if path in chosen or isinstance(at(network, path), Site):
                raise ValueError(f"taps: {'/'.join(path)} is chosen twice; a layer has one tap")
            chosen[path] = pattern != bare
    for path, at_input in chosen.items():
        swap(network, path, functools.partial(_with_tap, name="/".join(path) + INPUT * at_input, at_input=at_input))
    return network


def _ends(path: Path, pattern: str) -> bool:
    """Whether the last components of a path match."""
    return matches(path[-(pattern.count("/") + 1) :], pattern)


def _with_tap(layer: nnx.Module, name: str, at_input: bool) -> nnx.Module:
    """The same layer as one of `_kind`."""
    kind = _kind(type(layer), at_input)
    new = object.__new__(kind)
    vars(new).update(vars(layer))
    new.site = name
    return new


@functools.cache
def _kind(base: type, at_input: bool) -> type:
    """A subclass of a layer's class with a tap in its call; cached, as programs are compiled for a class."""
    method = "remembering" if hasattr(base, "remembering") else "__call__"
    call = getattr(base, method)

    def read(self, x: Array, *args: Any, **options: Any) -> Any:
        if at_input:
            return call(self, at_site(self.site, x), *args, **options)
        out = call(self, x, *args, **options)
        return (at_site(self.site, out[0]), *out[1:]) if isinstance(out, tuple) else at_site(self.site, out)

    return type(f"Tapped{base.__name__}", (base, Site), {method: read})
