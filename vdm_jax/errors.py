"""What a person can get wrong, said in one line.

`ValueError` is a usage error: it names the field, the value, what is allowed and the nearest right spelling,
and it is raised before any compile (the command line exits with status 2).  `RunError` is the world failing a
correct request: a full disk, a damaged file, a lock that somebody holds (exit status 1).
"""

import difflib
from collections.abc import Iterable


class RunError(RuntimeError):
    """A correct request that the machine or the data could not honour; the message is one line for a person."""


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Returns `unknown 'x'; did you mean 'y'? allowed: ...`, the tail of a message about a wrong name."""
    allowed = sorted(map(str, allowed))
    near = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"unknown {name!r}{hint} allowed: {', '.join(allowed)}"
