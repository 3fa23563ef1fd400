"""Tensors of a PyTorch file (`.pth`, `.pt`, `.ckpt`, `.bin`), without PyTorch and without running what is in it.

Since 1.6 such a file is a zip archive: `data.pkl` says which tensors there are, and each storage is a member of its own
that is not compressed, so a tensor lies in the file as it does in safetensors.  A pickle can name any function of any
module to be called; here only the few that make tensors and dicts are known, and any other name is refused.
"""

import collections
import dataclasses
import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vdm_jax.errors import RunError
from vdm_jax.interop.files.keymap import Shape
from vdm_jax.interop.files.tensors import DTYPES, Stored

SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")
_STORAGES = {
    "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
    "ByteStorage": "U8", "BoolStorage": "BOOL",
}  # fmt: skip
_LOCAL_HEADER = struct.Struct("<26xHH")  # lengths of the name and of the extra field behind it
# What unpickling bytes that are not as they were written ends in, beside a name that is not known.
_DAMAGED = (
    pickle.UnpicklingError, EOFError, UnicodeDecodeError, AttributeError, IndexError, KeyError, TypeError,
    MemoryError, OverflowError, struct.error,
)  # fmt: skip
_WITHIN = ("state_dict", "module", "model")  # what training scripts put the weights under


@dataclasses.dataclass(frozen=True)
class _Storage:
    member: str
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: Shape
    strides: Shape


def read_pickled(file: Path) -> dict[str, Stored]:
    """Name -> place of every tensor.

    Raises:
      ValueError: an old format or another kind of archive, or something in it that is no tensor's; says how to
        convert it.
      RunError: the file is cut off or damaged.
    """
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{file}: no zip archive (cut off, or written before PyTorch 1.6); {_how(file)}")
    try:
        with zipfile.ZipFile(file) as archive:
            infos = {info.filename: info for info in archive.infolist()}
            found = [name for name in infos if name.endswith("/data.pkl")]
            if len(found) != 1:
                raise ValueError(f"{file}: a zip archive of another kind, without PyTorch's data.pkl; {_how(file)}")
            with archive.open(found[0]) as opened:
                content = _Unpickler(opened, file).load()
    except (zipfile.BadZipFile, OSError, *_DAMAGED) as error:
        raise RunError(f"{file}: damaged: {error}") from None
    root = found[0].removesuffix("data.pkl")
    tensors = {name: value for name, value in _weights(content).items() if isinstance(value, _Tensor)}
    with file.open("rb") as opened:
        return {name: _stored(file, opened, infos, root, name, tensor) for name, tensor in tensors.items()}


def _how(file: Path) -> str:
    return (
        "convert it where PyTorch is: safetensors.torch.save_file(torch.load"
        f"({file.name!r}, weights_only=True), {file.with_suffix('.safetensors').name!r})"
    )


def _weights(content: Any) -> dict[str, Any]:
    """The dict that holds the tensors, which may lie in another."""
    for name in _WITHIN:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    return content if isinstance(content, dict) else {}


def _stored(
    file: Path, opened: BinaryIO, infos: Mapping[str, zipfile.ZipInfo], root: str, name: str, tensor: _Tensor
) -> Stored:
    """Where the values of a tensor lie in the file: behind the header that its storage has there."""
    rows = tuple(math.prod(tensor.shape[dim + 1 :]) for dim in range(len(tensor.shape)))
    if any(a != b for a, b, size in zip(rows, tensor.strides, tensor.shape) if size > 1):
        raise ValueError(f"{file}: {name} does not lie in one piece; {_how(file)}")
    info = infos.get(f"{root}data/{tensor.storage.member}")
    if info is None or info.compress_type != zipfile.ZIP_STORED:
        raise RunError(f"{file}: the values of {name} are not there, or compressed")
    opened.seek(info.header_offset)
    lengths = _LOCAL_HEADER.unpack(opened.read(_LOCAL_HEADER.size))
    begin = info.header_offset + _LOCAL_HEADER.size + sum(lengths)
    start = begin + tensor.offset * tensor.storage.dtype.itemsize
    stored = Stored(file, tensor.storage.dtype, tensor.shape, start)
    if start + stored.size > begin + info.file_size:
        raise RunError(f"{file}: {name} is larger than what is there")
    return stored


class _Unpickler(pickle.Unpickler):
    """Makes dicts and places of tensors, and calls nothing that a file names but these few."""

    def __init__(self, opened, file: Path):
        super().__init__(opened, encoding="utf-8")
        self._file = file

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return DTYPES[_STORAGES[name]]
        known = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *rest: tensor,
        }
        if (module, name) not in known:
            raise ValueError(f"{self._file}: holds a {module}.{name}, which is not made here; {_how(self._file)}")
        return known[module, name]

    def persistent_load(self, pid: tuple) -> _Storage:
        match pid:
            case ("storage", np.dtype() as dtype, str() as member, *_):
                return _Storage(member, dtype)
        raise pickle.UnpicklingError("it refers to something that is no storage")


def _tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple, *rest: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor of no storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))
