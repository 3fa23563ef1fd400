"""Whether the tensors of a folder are exactly those of a network, said in one line when they are not."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from vdm_jax.errors import RunError
from vdm_jax.interop.families.family import Family
from vdm_jax.interop.files.keymap import Buffer, KeyMap, Shape
from vdm_jax.interop.files.tensors import DTYPES, NAMES, Stored

READ_AS_WEIGHTS = ("F32", "F16", "BF16")
SHOWN = 12  # of each kind of fault


def check_tensors(
    family: Family, keymap: KeyMap, ours: Mapping[str, Shape], found: Mapping[str, Stored], folder: Path
) -> dict[str, Stored]:
    """Name in the key map -> where its values are.

    Args:
      family, keymap: the network.
      ours: shape of each of our parameters.
      found: the tensors of the folder.
      folder: for messages.

    Raises:
      ValueError: one line with every kind of fault, and for a name the nearest one that is left over.
      RunError: a tensor that is there twice has two values.
    """
    named: dict[str, Stored] = {}
    for name, stored in found.items():
        spelt = family.spell(name)
        if keymap.leaves_out(spelt):
            continue
        if spelt in named:
            _check_twins(named[spelt], stored, name)
        named[spelt] = stored
    weights = {entry.name: entry.shape(ours[entry.rule.ours]) for entry in keymap.entries(ours)}
    known = [*weights, *(buffer.theirs for buffer in keymap.buffers)]
    missing = sorted(weights.keys() - named.keys())
    unexpected = sorted(named.keys() - set(known))
    faults = [
        *listed("missing", missing, unexpected),
        *listed("unexpected", unexpected, missing),
        *listed("of another shape", misshaped(weights, named)),
        *listed(f"neither {', '.join(READ_AS_WEIGHTS)}", _not_floats(weights, named)),
    ]
    if not faults:
        faults = listed("another constant than the network's", _other_constants(keymap.buffers, named))
    if faults:
        raise ValueError(f"{folder}: not a {family.published} of its config.json: {'; '.join(faults)}")
    return named


def _check_twins(one: Stored, other: Stored, name: str) -> None:
    same = (one.dtype, one.shape) == (other.dtype, other.shape)
    if not same or one.read().tobytes() != other.read().tobytes():
        raise RunError(f"{other.file}: {name} and its other name have two values")


def misshaped(weights: Mapping[str, Shape], named: Mapping[str, Stored]) -> list[str]:
    """What has another shape than it must have."""
    both = sorted(weights.keys() & named.keys())
    return [f"{n} {list(named[n].shape)}, wanted {list(weights[n])}" for n in both if named[n].shape != weights[n]]


def _not_floats(weights: Mapping[str, Shape], named: Mapping[str, Stored]) -> list[str]:
    allowed = {DTYPES[name] for name in READ_AS_WEIGHTS}
    both = sorted(weights.keys() & named.keys())
    return [f"{n} is {NAMES[named[n].dtype]}" for n in both if named[n].dtype not in allowed]


def _other_constants(buffers: Iterable[Buffer], named: Mapping[str, Stored]) -> list[str]:
    faults = []
    for buffer in buffers:
        if buffer.theirs not in named:
            continue
        stored, made = named[buffer.theirs], buffer.make()
        tolerance = 1e-5 if stored.dtype.itemsize >= 4 else 1e-2
        if stored.shape != made.shape:
            faults.append(f"{buffer.theirs} {list(stored.shape)}, wanted {list(made.shape)}")
        elif not np.allclose(stored.read().astype(np.float64), made.astype(np.float64), tolerance, tolerance):
            faults.append(buffer.theirs)
    return faults


def listed(kind: str, items: list[str], others: list[str] | None = None) -> list[str]:
    """Nothing, or what is wrong with how many; names with the nearest of `others`."""
    if not items:
        return []
    near = {name: difflib.get_close_matches(name, others or (), n=1, cutoff=0.6) for name in items[:SHOWN]}
    shown = [f"{name} (nearest: {found[0]})" if found else name for name, found in near.items()]
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return [f"{len(items)} {kind}: {', '.join(shown)}{more}"]
