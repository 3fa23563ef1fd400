"""Reads `configs/*.py` and puts `--config.a.b=c` into it.

A config file defines `get_config() -> ml_collections.ConfigDict`, or `get_config(argument)` when it is named as
`configs/dit_tiny.py:argument`.
"""

import ast
import importlib.util
import inspect
import os
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from data_pipelines.loading.loader import DataConfig
from vdm_jax.config import build, flatten, to_dict
from vdm_jax.errors import did_you_mean
from vdm_jax.interop.finetuning.origin import settled
from vdm_jax.training.run_config import complete

_WORDS = {"true": True, "false": False, "none": None}


def load_config(name: str, overrides: Sequence[tuple[str, str]] = (), workdir: Path | None = None) -> ConfigDict:
    """Runs a config file and applies overrides; what `init` decides is written out first.

    Args:
      name: path of the file, `path.py` or `path.py:argument`.
      overrides: ("train.steps", "2000"), ...
      workdir: of a run that may have been started already, see `origin.settled`.

    Raises:
      ValueError: no such file or field, a value that cannot stand there; see `origin.settled`.
      RunError: what `init` names is damaged.
    """
    path, _, argument = name.partition(":")
    if not Path(path).is_file():
        near = sorted(str(p) for p in (Path(path).parent if path else Path()).glob("*.py"))
        raise ValueError(f"--config: {did_you_mean(path, near)}" if near else f"--config: no file {path}")
    spec = importlib.util.spec_from_file_location(f"config_{Path(path).stem}", os.path.abspath(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"--config: {path} defines no get_config()")
    parameters = inspect.signature(module.get_config).parameters.values()
    if argument and not parameters:
        raise ValueError(f"--config: get_config() of {path} takes no argument, so not {argument!r}")
    if not argument and any(p.default is p.empty for p in parameters):
        raise ValueError(f"--config: get_config() of {path} needs an argument, as in {path}:ARGUMENT")
    written = to_dict(module.get_config(argument) if argument else module.get_config())
    for field, value in overrides:
        if field == "init":
            written["init"] = None if _parse(value) is None else value
        elif field == "widen":
            written["widen"] = _parse(value)
    written, _ = settled(written, workdir)
    config = ConfigDict(complete(written))
    config.data = to_dict(build(DataConfig, written["data"], "config.data"))
    for field, value in overrides:
        override(config, field, value)
    return config


def override(config: ConfigDict, field: str, text: str) -> None:
    """Sets `config.<field>` to the value that `text` spells, of the type that stands there.

    Raises:
      ValueError: an unknown field (with the nearest one), or another type.
    """
    known = flatten(to_dict(config))
    sections = {name.rpartition(".")[0] for name in known}
    node = config
    *path, last = field.split(".")
    for part in path:
        node = node.get(part) if isinstance(node, ConfigDict) else None
    if not isinstance(node, ConfigDict) or (last not in node and field not in known):
        raise ValueError(f"--config.{field}: {did_you_mean(field, known)}")
    if field in sections:
        raise ValueError(f"--config.{field}: is a section; set one of its fields")
    old, new = node[last], _parse(text)
    if isinstance(old, ConfigDict):  # an empty mapping, or it would be a section
        old = {}
    if isinstance(old, str) and not isinstance(new, str):
        new = text
    if isinstance(old, (tuple, list)) and isinstance(new, (tuple, list)):
        new = tuple(new)
    numbers = isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool)
    sequences = isinstance(old, (tuple, list)) and isinstance(new, tuple)
    free = old is None or new is None or numbers or sequences
    if not free and type(new) is not type(old):
        raise ValueError(f"--config.{field}: {text!r} is not a {type(old).__name__} like {old!r}")
    with node.ignore_type():
        node[last] = float(new) if numbers else new


def _parse(text: str):
    """A Python literal, true/false/none in any case, or the text itself."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
