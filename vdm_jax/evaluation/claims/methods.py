"""The published methods: an index of all, and a folder for each that has been built.

experiments/methods.toml            slug -> title, family, paper, pieces
experiments/SLUG/config.py          published settings, and the toy ones
                /claim.py           CLAIM
                /README.md          what it does, how to use it, what the claim showed
                /results.json       of the last `vdm claim SLUG`
"""

import dataclasses
import importlib.machinery
import importlib.util
import json
import sys
import tomllib
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.evaluation.claims import claim
from vdm_jax.evaluation.claims.claim import Claim

INDEX, CLAIM, CONFIG, RESULTS = "methods.toml", "claim.py", "config.py", "results.json"
STATES = (*claim.STATES, "not run", "not started")


@dataclasses.dataclass(frozen=True)
class Method:
    """A published method.

    Attributes:
      slug: its folder.
      title, family, paper: as published; `paper` is an arXiv id or a venue.
      pieces: of this project that it is made of.
      folder: where it is, or would be.
    """

    slug: str
    title: str
    family: str
    paper: str
    pieces: tuple[str, ...]
    folder: Path

    @property
    def started(self) -> bool:
        return (self.folder / CLAIM).is_file()

    @property
    def results(self) -> dict[str, Any] | None:
        """What the last run of its claim wrote; None before.

        Raises:
          RunError: the file is damaged.
        """
        path = self.folder / RESULTS
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise RunError(f"{path}: is not JSON ({error}); run vdm claim {self.slug} again") from None

    @property
    def state(self) -> str:
        """One of `STATES`."""
        if not self.started:
            return "not started"
        results = self.results
        return "not run" if results is None else results["state"]

    def claim(self) -> Claim:
        """Its claim.

        Raises:
          ValueError: there is none yet.
        """
        if not self.started:
            raise ValueError(f"{self.slug}: is not built yet, there is no {self.folder / CLAIM}")
        return load(self.folder / CLAIM).CLAIM


def find_experiments(given: Path | None = None) -> Path:
    """The directory of methods: the one given, that of the working directory, or that of this checkout.

    Raises:
      ValueError: there is none.
    """
    places = [given] if given is not None else [Path("experiments"), Path(__file__).parents[3] / "experiments"]
    for place in places:
        if (place / INDEX).is_file():
            return place
    raise ValueError(f"--experiments: no {INDEX} in {places[-1]}; name the directory experiments of a checkout")


def read_methods(experiments: Path) -> dict[str, Method]:
    """All methods by slug, in the order of the index."""
    with (experiments / INDEX).open("rb") as file:
        index = tomllib.load(file)
    return {
        slug: Method(slug, entry["title"], entry["family"], entry["paper"], tuple(entry["pieces"]), experiments / slug)
        for slug, entry in index.items()
    }


def named(methods: dict[str, Method], slug: str) -> Method:
    """A method by name.

    Raises:
      ValueError: no such method.
    """
    if slug not in methods:
        raise ValueError(f"SLUG: {did_you_mean(slug, methods)}")
    return methods[slug]


def load(path: Path) -> ModuleType:
    """Runs a file of a method's folder as a module, in which `from . import config` finds its neighbours.

    Folders have the names of methods (`ca2-vdm`), which Python could not import, and nothing else may import them.
    """
    folder = path.parent.resolve()
    package = f"experiment_{zlib.crc32(str(folder).encode()):08x}"  # two folders may have one name
    if package not in sys.modules:
        spec = importlib.machinery.ModuleSpec(package, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        sys.modules[package] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{package}.{path.stem}")
