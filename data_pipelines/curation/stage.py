"""A step of curation, and the fingerprint under which its results are stored.

What a step gives for a source follows from the source's bytes, from what the step does (its version) and how (its
settings), and from the same of every step whose result it reads.  The fingerprint is a digest of all of these but the
bytes, so a result that is stored under (digest of the source, fingerprint) is valid for as long as it can be found: a
changed setting gives other fingerprints to the step and to those after it, and leaves the others alone.
"""

import dataclasses
import hashlib
import json
from typing import Any

from vdm_jax import config as configs


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step.

    Attributes:
      name: a word, e.g. `cuts`; part of a folder's name.
      version: raised when the step gives other results for the same settings.
      settings: a frozen dataclass (or anything that `config.to_dict` turns into JSON); None where there is nothing to
        set.
      after: the steps whose results it reads.
    """

    name: str
    version: int
    settings: Any = None
    after: tuple["Stage", ...] = ()

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits."""
        return fingerprint(
            [self.name, self.version, configs.to_dict(self.settings), [stage.fingerprint for stage in self.after]]
        )

    @property
    def folder(self) -> str:
        """Name and fingerprint."""
        return f"{self.name}-{self.fingerprint}"


def fingerprint(value: Any) -> str:
    """A short digest of anything that JSON can hold, NaN excepted."""
    return hashlib.sha256(canonical(value)).hexdigest()[:16]


def canonical(value: Any) -> bytes:
    """The one JSON text of a value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")
