"""Taps: hidden states of named layers, read out of a network while it runs, or put into it.

    network = tapped(network, "units/temporal")       adapters.taps: which layers have a tap
    with tapping(network) as seen:                    inside the function that is compiled
        output = network(x, t, cond)
    seen["units/temporal"]                            [layers, ...]: a row for each layer of a stack

    with tapping(network, {"units/temporal": Write(lambda h, mine: h.at[:, ::4].set(mine), features)}):
        output = network(x, t, cond)                  features [layers, ...]: each layer gets its own row

What is read are values of the traced function like any other: they may be returned, and gradients flow through them.
What stacks and rematerialised layers compute inside a function of their own is brought out of it by `inside`.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import jax
from flax import nnx

from vdm_jax.errors import did_you_mean

Array = jax.Array


class Site(nnx.Module):
    """A layer with a tap; `adapters.taps` makes its subclasses."""

    site: str


@dataclasses.dataclass(frozen=True)
class Write:
    """What to do at a tap.

    Attributes:
      edit: `(value, given) -> value` of the same shape and dtype.
      given: what it needs, of a layer in a stack with the leading `layers` dim that `edit` does not see.
    """

    edit: Callable[[Array, Any], Array]
    given: Any = None


@dataclasses.dataclass
class _Run:
    writes: Mapping[str, Write]
    seen: dict[str, Array] = dataclasses.field(default_factory=dict)


_RUN: ContextVar[_Run | None] = ContextVar("taps", default=None)


@contextlib.contextmanager
def tapping(network: nnx.Module, writes: Mapping[str, Write] | None = None) -> Iterator[dict[str, Array]]:
    """Reads and writes at the taps of one call of a network.

    Args:
      network: with taps, called once within.
      writes: site -> what to do there.

    Yields:
      Site -> its value as the layer made it, filled when the network has run.

    Raises:
      ValueError: a write where there is no tap, of another shape, or a tap that the call did not come by, or twice.
    """
    writes, known = dict(writes or {}), sites(network)
    for name in writes:
        if name not in known:
            raise ValueError(f"writes: {did_you_mean(name, known)}")
    if not known:
        raise ValueError(f"taps: the {type(network).__name__} has none; choose its layers with adapters.taps.tapped")
    run = _Run(writes)
    token = _RUN.set(run)
    try:
        yield run.seen
    finally:
        _RUN.reset(token)
    if missed := [name for name in known if name not in run.seen]:
        raise ValueError(f"taps: {missed[0]!r} was not come by; the network was not called here, or skips that layer")


def sites(module: nnx.Module) -> list[str]:
    """Names of the taps in a module, itself included."""
    return sorted(part.site for _, part in nnx.iter_modules(module) if isinstance(part, Site))


def at_site(name: str, value: Array) -> Array:
    """What goes on from a tap: the value, or what is written there instead."""
    run = _RUN.get()
    if run is None:
        return value
    if name in run.seen:
        raise ValueError(f"taps: {name!r} was come by twice; open one `tapping` for each call of the network")
    run.seen[name] = value
    if name not in run.writes:
        return value
    write = run.writes[name]
    new = write.edit(value, write.given)
    if (new.shape, new.dtype) != (value.shape, value.dtype):
        raise ValueError(
            f"writes: {name!r} makes {new.dtype}{list(new.shape)} of {value.dtype}{list(value.shape)}; keep both"
        )
    return new


def given_to(module: nnx.Module) -> dict[str, Any]:
    """What is given to the writes in a module: what a scan over its layers has to cut like their parameters."""
    run = _RUN.get()
    if run is None or not run.writes:
        return {}
    return {name: run.writes[name].given for name in sites(module) if name in run.writes}


@contextlib.contextmanager
def inside(given: Mapping[str, Any]) -> Iterator[dict[str, Array]]:
    """The body of a function that JAX traces by itself; what it yields must be returned, and given to `report`.

    Args:
      given: of `given_to`, cut to this layer.
    """
    outer = _RUN.get()
    if outer is None:
        yield {}
        return
    writes = {name: dataclasses.replace(outer.writes[name], given=mine) for name, mine in given.items()}
    run = _Run(writes)
    token = _RUN.set(run)
    try:
        yield run.seen
    finally:
        _RUN.reset(token)


def report(seen: Mapping[str, Array]) -> None:
    """Hands what was read `inside` a function to whoever runs it."""
    run = _RUN.get()
    if run is not None:
        if twice := run.seen.keys() & seen.keys():
            raise ValueError(f"taps: {min(twice)!r} was come by twice; open one `tapping` for each call of the network")
        run.seen.update(seen)
