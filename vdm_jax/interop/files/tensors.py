"""Safetensors files, one tensor at a time and without PyTorch.

A file is the length of its header (8 bytes, little endian), the header as JSON (`name -> dtype, shape, offsets`) and
the tensors' bytes.  A folder holds one file, or several and an index that says which tensor is where.  Reading copies
only the tensor that is asked for; writing takes tensors in any order, each to its place.
"""

import dataclasses
import hashlib
import json
import math
import mmap
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from vdm_jax.errors import RunError
from vdm_jax.interop.files.keymap import Shape

DTYPES: dict[str, np.dtype] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
        "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
        "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
    }.items()
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
SUFFIX = ".safetensors"
STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
MAX_FILE = 5 * 10**9  # bytes of tensors in a file, as the published ones have
_MAX_HEADER = 100 * 10**6  # bytes; the format's own limit


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in a file: `size` bytes at `start`, which must have this `digest` (SHA-256 in hex) if there is one."""

    file: Path
    dtype: np.dtype
    shape: Shape
    start: int
    digest: str | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """A copy of its values.  Raises RunError, see `mapped`."""
        return np.array(self.mapped())

    def mapped(self) -> np.ndarray:
        """Its values where the system keeps the file, for use at once and let go: they change when the file does.

        Raises:
          RunError: the file has become shorter since it was opened, or the digest is another.
        """
        values = self._mapped()
        if self.digest is not None and _sha256(values) != self.digest:
            raise RunError(f"{self.file}: {list(self.shape)} at byte {self.start} is not what was imported")
        return values

    def digested(self) -> str:
        """The digest of its values as they are now."""
        return _sha256(self._mapped())

    def _mapped(self) -> np.ndarray:
        if self.size == 0:
            return np.zeros(self.shape, self.dtype)
        before = self.start % mmap.ALLOCATIONGRANULARITY
        with self.file.open("rb") as file:
            if os.fstat(file.fileno()).st_size < self.start + self.size:
                raise RunError(f"{self.file}: ends within a tensor")
            pages = mmap.mmap(file.fileno(), before + self.size, offset=self.start - before, access=mmap.ACCESS_READ)
        return np.frombuffer(pages, np.uint8, self.size, before).view(self.dtype).reshape(self.shape)


def _sha256(values: np.ndarray) -> str:
    return hashlib.sha256(values.reshape(-1).view(np.uint8)).hexdigest()


def tensors_of(folder: Path) -> dict[str, Stored]:
    """Name -> place of every tensor in a folder, from the headers alone.

    Raises:
      ValueError: the folder holds no safetensors, or several sets of them.
      RunError: a file is missing, cut off or damaged, or is not what the index says.
    """
    index = sorted(folder.glob(f"*{SUFFIX}.index.json"))
    if len(index) > 1:
        raise ValueError(f"{folder}: several sets of weights: {', '.join(path.name for path in index)}; leave one")
    if index:
        return _indexed(index[0])
    return read_header(_single(folder))


def _single(folder: Path) -> Path:
    """The one file of weights; those with an infix (`model.fp16.safetensors`) only where there is nothing else."""
    files = sorted(folder.glob(f"*{SUFFIX}"))
    whole = [path for path in files if path.name.removesuffix(SUFFIX) in STEMS.values()]
    if len(whole or files) == 1:
        return (whole or files)[0]
    if files:
        raise ValueError(f"{folder}: several files of weights: {', '.join(path.name for path in files)}; leave one")
    pickles = sorted(path.name for path in folder.glob("*.bin")) + sorted(path.name for path in folder.glob("*.pt*"))
    found = f" (there is {pickles[0]}, a pickle, which is not read)" if pickles else ""
    raise ValueError(f"{folder}: no *{SUFFIX} here{found}")


def _indexed(index: Path) -> dict[str, Stored]:
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise RunError(f"{index}: has no weight_map of file names")
    found: dict[str, Stored] = {}
    for name in sorted(set(where.values())):
        if not (index.parent / name).is_file():
            raise RunError(f"{index}: names {name}, which is not there")
        found |= read_header(index.parent / name)
    if differing := sorted(where.keys() ^ found.keys()):
        raise RunError(f"{index}: {differing[0]} is {'not in its file' if differing[0] in where else 'not in it'}")
    return found


def read_json(path: Path) -> dict:
    """Reads a JSON object.  Raises RunError if the file is not one."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise RunError(f"{path}: is not a JSON object")
    return value


def read_header(file: Path) -> dict[str, Stored]:
    """Name -> place of every tensor of one file.

    Raises:
      RunError: the file is cut off, or is not what its header says.
    """
    with file.open("rb") as opened:
        length = struct.unpack("<Q", opened.read(8).ljust(8, b"\0"))[0]
        size = os.fstat(opened.fileno()).st_size
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise RunError(f"{file}: not a safetensors file, or cut off within its header")
        try:
            header = json.loads(opened.read(length))
            tensors = {name: _stored(file, entry, 8 + length) for name, entry in header.items() if name[:2] != "__"}
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file}: damaged header: {error}") from None
    end = 8 + length + sum(stored.size for stored in tensors.values())
    if size != end:
        raise RunError(
            f"{file}: has {size} bytes, its header says {end}; it is {'cut off' if size < end else 'damaged'}"
        )
    return tensors


def _stored(file: Path, entry: Mapping, base: int) -> Stored:
    stored = Stored(file, DTYPES[entry["dtype"]], tuple(entry["shape"]), base + entry["data_offsets"][0])
    if stored.size != entry["data_offsets"][1] - entry["data_offsets"][0]:
        raise ValueError(f"{entry} has another size than its shape")
    return stored


class TensorWriter:
    """Writes a set of tensors whose shapes are known before their values.

    Args:
      folder: where to; exists.
      stem: of the file names, see `STEMS`.
      tensors: name -> (shape, dtype).
      max_file: bytes of tensors in a file, if there is more than one tensor in it.

    Raises:
      OSError: it cannot be written.
    """

    def __init__(
        self, folder: Path, stem: str, tensors: Mapping[str, tuple[Shape, np.dtype]], max_file: int = MAX_FILE
    ):
        self._places: dict[str, Stored] = {}
        # As the published writer does: wide dtypes first, so that each tensor is aligned.
        order = sorted(tensors, key=lambda name: (-np.dtype(tensors[name][1]).itemsize, name))
        files: list[list[str]] = [[]]
        filled = 0
        for name in order:
            size = math.prod(tensors[name][0]) * np.dtype(tensors[name][1]).itemsize
            if files[-1] and filled + size > max_file:
                files.append([])
                filled = 0
            files[-1].append(name)
            filled += size
        names = [f"{stem}{SUFFIX}"]
        if len(files) > 1:
            names = [f"{stem}-{i:05d}-of-{len(files):05d}{SUFFIX}" for i in range(1, len(files) + 1)]
        for name, members in zip(names, files):
            self._places |= _begin(folder / name, {member: tensors[member] for member in members})
        if len(files) > 1:
            self._write_index(folder / f"{stem}{SUFFIX}.index.json")
        self._left = set(tensors)

    def _write_index(self, path: Path) -> None:
        where = {name: self._places[name].file.name for name in sorted(self._places)}
        size = sum(place.size for place in self._places.values())
        path.write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": where}, indent=2) + "\n")

    def put(self, name: str, values: np.ndarray) -> None:
        """Writes one tensor, in the dtype that was announced."""
        place = self._places[name]
        assert values.shape == place.shape, f"{name}: {values.shape}, announced as {place.shape}"
        with place.file.open("r+b") as file:
            file.seek(place.start)
            file.write(np.ascontiguousarray(values.astype(place.dtype, copy=False)).reshape(-1).view(np.uint8).data)
        self._left.remove(name)

    def close(self) -> None:
        """Brings all files to the disk."""
        assert not self._left, f"never written: {sorted(self._left)}"
        for path in {place.file for place in self._places.values()}:
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _begin(file: Path, tensors: Mapping[str, tuple[Shape, np.dtype]]) -> dict[str, Stored]:
    """Writes the header, and makes room for what it names."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}  # what published loaders ask for
    end = 0
    for name, (shape, dtype) in tensors.items():
        start, end = end, end + math.prod(shape) * np.dtype(dtype).itemsize
        header[name] = {"dtype": NAMES[np.dtype(dtype)], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        opened.truncate(8 + len(text) + end)
    return read_header(file)
