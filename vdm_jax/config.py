"""From `ml_collections.ConfigDict` (what a person writes) to frozen dataclasses (what the code reads).

This is the one place where the two meet, so it is also the one place where a misspelt key can be caught: every
section of a config is turned into the dataclass that owns its fields, and a key that the dataclass lacks is an
error that names the nearest one.  Nothing downstream ever sees a ConfigDict.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from vdm_jax.errors import did_you_mean

T = TypeVar("T")


def build(cls: type[T], section: Mapping[str, Any], path: str) -> T:
    """Builds the frozen dataclass `cls` from one section of a config.

    Nested dataclass fields are built from nested sections, lists become tuples.

    Args:
      cls: a dataclass.
      section: a ConfigDict or any mapping.
      path: where the section stands in the config, for the message (`config.model`).

    Raises:
      ValueError: an unknown key, a missing one, or a value of the wrong type; names the full path.
    """
    if not isinstance(section, Mapping) and not hasattr(section, "items"):
        raise ValueError(f"{path}: expected a section with fields of {cls.__name__}, got {section!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    values = {}
    for key, value in section.items():
        if key not in fields:
            raise ValueError(f"{path}.{key}: {did_you_mean(key, fields)}")
        values[key] = _convert(hints[key], value, f"{path}.{key}")
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if no_default and name not in values:
            raise ValueError(f"{path}.{name}: missing; {cls.__name__} needs it")
    try:
        return cls(**values)
    except ValueError as error:  # a dataclass checks its own fields and names them; we add where they stand
        raise ValueError(f"{path}.{error}") from None


def build_kind(kinds: Mapping[str, type], section: Mapping[str, Any], path: str):
    """Builds one of several dataclasses, chosen by `section.kind` (e.g. `process.kind = 'rectified_flow'`).

    Raises:
      ValueError: no `kind`, an unknown one, or any error of `build`.
    """
    fields = dict(section.items())
    kind = fields.pop("kind", None)
    if kind not in kinds:
        raise ValueError(f"{path}.kind: {did_you_mean(kind, kinds)}")
    return build(kinds[kind], fields, path)


def to_dict(value: Any) -> Any:
    """Turns (nested) dataclasses, tuples and ConfigDicts into plain JSON types; the inverse of `build`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if hasattr(value, "items"):
        return {str(k): to_dict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_dict(v) for v in value]
    return value


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{'a': {'b': 1}} -> {'a.b': 1}`; used to show the difference of two configs."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping) and item:
            flat.update(flatten(item, f"{name}."))
        else:
            flat[name] = item
    return flat


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines `train.batch_size: 32 -> 64`, one for each field in which two configs differ."""
    a, b = flatten(to_dict(old)), flatten(to_dict(new))
    gone = "(absent)"
    return [
        f"{k}: {a.get(k, gone)} -> {b.get(k, gone)}"
        for k in sorted(a.keys() | b.keys())
        if a.get(k, gone) != b.get(k, gone)
    ]


def _convert(hint: Any, value: Any, path: str) -> Any:
    """Checks a value against a field's annotation; ints are taken for floats, lists for tuples."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [a for a in args if a is not type(None)]
        for option in options:
            try:
                return _convert(option, value, path)
            except ValueError:
                if len(options) == 1:
                    raise
        raise ValueError(f"{path}: {value!r} is none of {', '.join(map(str, options))}")
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, path)
    if origin is tuple:
        return _convert_tuple(args, value, path)
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        return to_dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type):
        wrong_bool = isinstance(value, bool) and hint in (int, float)
        if not isinstance(value, hint) or wrong_bool:
            raise ValueError(f"{path}: expected {hint.__name__}, got {value!r}")
    return value


def _convert_tuple(args: tuple, value: Any, path: str) -> tuple:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise ValueError(f"{path}: expected a list, got {value!r}")
    items = tuple(value)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert(args[0], v, f"{path}[{i}]") for i, v in enumerate(items))
    if len(items) != len(args):
        raise ValueError(f"{path}: expected {len(args)} values, got {list(items)!r}")
    return tuple(_convert(a, v, f"{path}[{i}]") for i, (a, v) in enumerate(zip(args, items)))
