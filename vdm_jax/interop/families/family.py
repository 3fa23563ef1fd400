"""What a published class is here: its options, its network and its key map.

A new family is one file under `models/` with the network, one here with a `Family`, one line in `families`, and one
parity test.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx
from flax.traverse_util import flatten_dict

from vdm_jax.config import build, to_dict
from vdm_jax.errors import did_you_mean
from vdm_jax.interop.files.keymap import KeyMap, Shape
from vdm_jax.models.networks import HOW
from vdm_jax.training.state import NetworkDefinitions, define

NETWORK = "network"


@dataclasses.dataclass(frozen=True)
class Family:
    """A published class.

    Attributes:
      published: its name in `config.json` (`_class_name`, or `architectures[0]` of a text encoder).
      module: `(config, rngs) -> network`.
      read: `config.json` -> our config; must raise ValueError for an option that changes what is computed and that the
        network does not have.  See `Options`.
      write: our config -> `config.json`, for export.
      keymap: our config -> the map of its parameters.
      library: whose file names and `config.json` it has, `diffusers` or `transformers`.
      fits: our config -> whether it is for this class to write it, where several classes have one module.
      spell: name of a tensor in a file -> its name in the key map, for files with other spellings, or with one tensor
        under two names.
    """

    published: str
    module: Callable[[Any, nnx.Rngs], nnx.Module]
    read: Callable[["Options"], Any]
    write: Callable[[Any], dict[str, Any]]
    keymap: Callable[[Any], KeyMap]
    library: str = "diffusers"
    fits: Callable[[Any], bool] = lambda config: True
    spell: Callable[[str], str] = lambda name: name

    def config(self, published: Mapping[str, Any]) -> Any:
        """`config.json` -> our config.

        Raises:
          ValueError: an option that is not known, or whose value the network does not have.
        """
        options = Options(self.published, dict(published))
        config = self.read(options)
        options.finish()
        return config

    def published_config(self, config: Any) -> dict[str, Any]:
        """Our config -> `config.json`, with the name of the class."""
        named = {"_class_name": self.published} if self.library == "diffusers" else {"architectures": [self.published]}
        return named | self.write(config)

    @functools.lru_cache(maxsize=8)  # several steps of one load ask for it, and a large one takes seconds  # noqa: B019
    def define(self, config: Any) -> NetworkDefinitions:
        """The static half of the network, which is called `NETWORK` there; nothing is allocated."""
        return define(lambda rngs: {NETWORK: self.module(config, rngs)})

    def shapes(self, config: Any) -> dict[str, Shape]:
        """Shape of each of our parameters by its dotted path, without allocating any."""
        flat = flatten_dict(self.define(config).abstract[NETWORK])
        return {".".join(path): leaf.shape for path, leaf in flat.items()}


class Options:
    """The options of a `config.json`, each of which must be looked at.

    Args:
      published: name of the class, for messages.
      values: of the file; what begins with `_` is not an option.
    """

    def __init__(self, published: str, values: Mapping[str, Any]):
        self.published = published
        self._left = {name: value for name, value in values.items() if not name.startswith("_")}
        self._seen: list[str] = []

    def take(self, name: str, default: Any = ...) -> Any:
        """The value of an option; without a `default` it must be there."""
        self._seen.append(name)
        if name in self._left:
            return self._left.pop(name)
        if default is ...:
            raise ValueError(f"{self.published}: config.json lacks {name!r}")
        return default

    def only(self, name: str, *allowed: Any) -> None:
        """An option that must have one of these values (or be absent), as nothing else is built here."""
        self._seen.append(name)
        if name in self._left and (value := self._left.pop(name)) not in allowed:
            raise ValueError(f"{self.published}: {name}={value!r} is not supported (only {_listed(allowed)})")

    def ignore(self, *names: str) -> None:
        """Options that change nothing that is computed here."""
        self._seen += names
        for name in names:
            self._left.pop(name, None)

    def finish(self) -> None:
        """Raises ValueError if an option was not looked at."""
        for name in self._left:
            raise ValueError(f"{self.published}: config.json: {did_you_mean(name, self._seen)}")


def own_family(config: type, module: type[nnx.Module], keymap: Callable[[Any], KeyMap]) -> Family:
    """A network of the project itself, whose `config.json` is our config, for files that no published class has.

    Args:
      config: its dataclass.
      module, keymap: see `Family`.
    """
    names = [field.name for field in dataclasses.fields(config) if field.name not in HOW]

    def read(options: Options) -> Any:
        return build(config, {name: options.take(name) for name in names}, options.published)

    def write(found: Any) -> dict[str, Any]:
        return {name: value for name, value in to_dict(found).items() if name in names}

    return Family(module.__name__, module, read, write, keymap, fits=lambda found: False)


def _listed(values: tuple) -> str:
    return " or ".join(map(repr, values))
