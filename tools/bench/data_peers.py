"""Those who load the same clips in PyTorch: a `DataLoader` over a folder of files, and WebDataset over tars.

They decode, cut and resize with the functions that our loader uses, so only what brings clips together differs.  Both
give uint8 (or float16) batches of the shapes that ours gives, in the order that suits them: the folder at random, the
tars one after the other.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import webdataset
from torch.utils.data import DataLoader, Dataset

from bench.data_material import Material
from data_pipelines.loading.fit import cover
from vdm_jax.media.video import decode
from vdm_jax.media.window import decode_frames


def cut(material: Material, payload: bytes, rng: np.random.Generator) -> np.ndarray:
    """A clip of a batch from its bytes."""
    frames, height, width = material.taken
    if material.suffix != "mp4":
        return np.frombuffer(payload, material.dtype).reshape(material.stored)
    if material.whole:
        return decode(payload)
    start = int(rng.integers(material.stored[0] - frames + 1))
    size = cover(material.stored[1:3], (height, width))
    video = decode_frames(payload, range(start, start + frames), size, frames=material.stored[0])
    down, right = (int(rng.integers(have - want + 1)) for have, want in zip(video.shape[1:3], (height, width)))
    return video[:, down : down + height, right : right + width]


@dataclasses.dataclass
class Files(Dataset):
    """A folder of files, at random."""

    material: Material
    folder: Path

    def __post_init__(self):
        self._files = sorted(str(path) for path in self.folder.iterdir())

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> torch.Tensor:
        with open(self._files[index], "rb") as file:
            payload = file.read()
        # A copy, as tensors must be writable.
        return torch.from_numpy(np.array(cut(self.material, payload, np.random.default_rng(index))))


def of_files(material: Material, folder: Path, batch: int, workers: int) -> Iterator[torch.Tensor]:
    """Endless batches."""
    more = {"persistent_workers": True} if workers else {}
    loader = DataLoader(Files(material, folder), batch, shuffle=True, num_workers=workers, drop_last=True, **more)
    while True:
        yield from loader


@dataclasses.dataclass(frozen=True)
class Decode:
    """Of a sample of a tar."""

    material: Material

    def __call__(self, sample: dict) -> torch.Tensor:
        rng = np.random.default_rng(int(sample["__key__"]))
        return torch.from_numpy(np.array(cut(self.material, sample[self.material.suffix], rng)))


def of_tars(material: Material, folder: Path, batch: int, workers: int) -> Iterator[torch.Tensor]:
    """Endless batches; what is left of an epoch at its end is not given."""
    urls = sorted(str(path) for path in folder.iterdir())
    data = webdataset.WebDataset(urls, shardshuffle=False, nodesplitter=None, empty_check=False).map(Decode(material))
    data = data.batched(batch, partial=False, collation_fn=torch.stack)
    more = {"persistent_workers": True} if workers else {}
    loader = webdataset.WebLoader(data, batch_size=None, shuffle=False, num_workers=workers, **more)
    while True:
        yield from loader
