"""Content digests: what makes a flipped bit in a checkpoint visible.

Orbax commits a step atomically, but a bit that flips later in its array data restores silently as a wrong weight
(23 of 24 flips, measured).  So every step holds one more item, `digests/digests.json`, with the SHA-256 and the
size of each file of the step.  The item is written by `DigestHandler.finalize`, which Orbax calls in its
background thread after the arrays of all processes are on disk and *before* it renames the step to its final
name.  Two things follow:

  * training never waits for a digest;
  * a step that bears its final name has its digests: a kill leaves a step with both or no step at all.  There is
    no third state to reason about, so a step without a readable digest file is a damaged step.

Not covered: the files in which Orbax notes the commit itself (they come after the digests, and a local
file system's restore never reads them), and a bit that flips in memory before it is written.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
from collections.abc import Iterator

import orbax.checkpoint as ocp
from etils import epath

ITEM = "digests"
_FILE = "digests.json"
_TEMPORARY = "orbax-checkpoint-tmp"
_BLOCK = 1 << 22  # bytes read at once: hashlib lets go of the GIL for the whole block
_THREADS = 8


@dataclasses.dataclass(frozen=True)
class FileDigest:
    """What a file held when it was written: `sha256` in hex (as of `sha256sum`) and its size in `bytes`."""

    sha256: str
    bytes: int


def digest_file(path: epath.PathLike) -> FileDigest:
    """Reads a file once, in blocks, and returns its digest.  Raises OSError."""
    sha, size = hashlib.sha256(), 0
    with epath.Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            sha.update(block)
            size += len(block)
    return FileDigest(sha.hexdigest(), size)


def digest_step(step: epath.PathLike) -> dict[str, FileDigest]:
    """Returns the digest of each file of a step that `covered` names, by its path inside the step."""
    step = epath.Path(step)
    names = sorted(covered(step))
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: digest_file(step / name), names), strict=True))


def covered(step: epath.Path, inside: str = "") -> Iterator[str]:
    """Yields the files of a step that have a digest: all files in its items but the digests themselves."""
    for path in step.iterdir():
        name = f"{inside}{path.name}"
        if path.is_dir():
            if inside or not name.startswith(ITEM):
                yield from covered(path, f"{name}/")
        elif inside:
            yield name


def read_digests(step: epath.PathLike) -> dict[str, FileDigest]:
    """Reads the digests written with a step.

    Raises:
      ValueError, TypeError, OSError: the digest file is missing or is not what `DigestHandler` writes.
    """
    recorded = json.loads((epath.Path(step) / ITEM / _FILE).read_text())
    if not isinstance(recorded, dict) or not recorded:
        raise ValueError(f"{_FILE}: lists no file")
    return {name: FileDigest(**digest) for name, digest in recorded.items()}


def find_damage(step: epath.PathLike, share: int = 0, shares: int = 1) -> str | None:
    """Compares a step with the digests written with it.

    Args:
      step: directory of one committed step.
      share, shares: looks at every `shares`-th file from `share` on, so that processes can divide the reading.

    Returns:
      None when all is as written, else `FILE: what is wrong` for the first damaged file in name order.
    """
    step = epath.Path(step)
    try:
        recorded = read_digests(step)
    except Exception as error:  # any damage to the JSON: not text, not JSON, other fields, not there
        return f"{ITEM}/{_FILE}: unreadable ({type(error).__name__})"
    names = sorted(recorded)[share::shares]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        faults = pool.map(lambda name: _fault(step / name, recorded[name]), names)
        return next((f"{name}: {fault}" for name, fault in zip(names, faults, strict=True) if fault), None)


def _fault(path: epath.Path, recorded: FileDigest) -> str | None:
    try:
        found = digest_file(path)
    except OSError as error:
        return "missing" if not path.exists() else f"unreadable ({error.strerror})"
    if found.bytes != recorded.bytes:
        return f"{found.bytes} bytes, {recorded.bytes} were written"
    return None if found == recorded else "its content is not what was written"


class DigestHandler(ocp.CheckpointHandler):
    """Orbax handler of the item `digests`; must be the last item of its manager, so that it sees all others."""

    def save(self, directory: epath.Path, args: "DigestSave"):
        """Writes nothing yet: the other items are still on their way to the disk."""

    def restore(self, directory: epath.Path, args: "DigestSave | None" = None) -> dict[str, FileDigest]:
        return read_digests(directory.parent)

    def finalize(self, directory: epath.Path):
        """Digests the finished items beside `directory` (process 0 only; the step is not yet committed)."""
        step = epath.Path(directory).parent
        unfinished = [p.name for p in step.iterdir() if _TEMPORARY in p.name and not p.name.startswith(ITEM)]
        assert not unfinished, f"digests must be finalized last; still being written: {unfinished}"
        recorded = {name: dataclasses.asdict(digest) for name, digest in digest_step(step).items()}
        (directory / _FILE).write_text(json.dumps(recorded, indent=1))


@ocp.args.register_with_handler(DigestHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class DigestSave(ocp.args.CheckpointArgs):
    """Asks a `CheckpointManager` to write the digests of this step."""
