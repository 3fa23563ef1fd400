"""Whole files of the authors of models, made of tiny published pipelines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vdm_jax.interop.files.tensors import TensorWriter, read_header, tensors_of
from vdm_jax.interop.originals.layout import Original, write_original


def as_authors_wrote(parts: Mapping[Original, tuple[Any, str]], file: Path, **more: np.ndarray) -> Path:
    """One file of several networks.

    Args:
      parts: layout -> published network and what stands in front of its names.
      file: to write.
      more: tensors that are in it as well.
    """
    tensors = dict(more)
    for original, (module, prefix) in parts.items():
        folder = file.parent / "made" / original.component
        module.save_pretrained(folder, safe_serialization=True)
        write_original(original, tensors_of(folder), folder, "original")
        found = read_header(folder / "original.safetensors")
        tensors |= {prefix + name: stored.read() for name, stored in found.items()}
    writer = TensorWriter(file.parent, file.stem, {name: (value.shape, value.dtype) for name, value in tensors.items()})
    for name, value in tensors.items():
        writer.put(name, value)
    writer.close()
    return file
