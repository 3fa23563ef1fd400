"""Which parameters: filters over the tags in their paths.

A parameter's path is `network/module/.../leaf` (`backbone/blocks/temporal/query/kernel`), and each component is a
tag.  A pattern is one or more components joined by `/`, each may hold shell wildcards, and it matches a path that
contains them in a row:

    temporal             everything inside a module called temporal
    lora                 every low-rank adapter
    blocks/*/qkv         the layers called qkv, one level inside the blocks
    text                 the whole network called text
    !*norm*              takes away what the other patterns chose
"""

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase

from vdm_jax.errors import did_you_mean

Path = tuple[str, ...]


def matches(path: Path, pattern: str) -> bool:
    """True if the components of `pattern` stand in a row somewhere in `path`."""
    wanted = pattern.split("/")
    starts = range(len(path) - len(wanted) + 1)
    return any(all(fnmatchcase(path[i + k], part) for k, part in enumerate(wanted)) for i in starts)


def select(paths: Collection[Path], patterns: Sequence[str], field: str = "trains") -> frozenset[Path]:
    """The paths that some pattern chooses and no `!pattern` takes away.

    Args:
      paths: of all parameters.
      patterns: as above; only `!` patterns means "all but".
      field: name of the setting, for the message.

    Raises:
      ValueError: a pattern that matches no path (names the nearest tag), or nothing is left.
    """
    wanted = [p for p in patterns if not p.startswith("!")]
    unwanted = [p[1:] for p in patterns if p.startswith("!")]
    for pattern in (*wanted, *unwanted):
        if not any(matches(path, pattern) for path in paths):
            raise ValueError(f"{field}: no parameter matches {pattern!r}; {did_you_mean(pattern, _tags(paths))}")
    chosen = frozenset(
        path
        for path in paths
        if (not wanted or any(matches(path, p) for p in wanted)) and not any(matches(path, p) for p in unwanted)
    )
    if not chosen:
        raise ValueError(f"{field}: {list(patterns)} leave no parameter")
    return chosen


def _tags(paths: Iterable[Path]) -> set[str]:
    return {component for path in paths for component in path}
