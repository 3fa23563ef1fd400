"""Files of low-rank pairs as others write them, read and written without their code; their names are in `names`.

A pair of a convolution is a convolution of the same window to r channels, and one of window 1.  Its scale is alpha / r:
a tensor `alpha` beside the pair, or in the metadata of the file (`peft`); or B has it, where nobody reads either.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from vdm_jax.errors import RunError
from vdm_jax.interop.files.keymap import Shape
from vdm_jax.interop.files.matching import listed
from vdm_jax.interop.files.tensors import read_header, read_json
from vdm_jax.interop.lora.names import Shapes, Spelling, comfy_spellings, peft_spelling, prefix_of, spellings

METADATA, WEIGHTS_NAME = "lora_adapter_metadata", "pytorch_lora_weights.safetensors"
STYLES = ("peft", "comfy")

_DOWN = re.compile(r"(.+?)(?:\.lora_A(?:\.default)?|\.lora_down|[._]lora\.down)\.weight")
_UP = re.compile(r"(.+?)(?:\.lora_B(?:\.default)?|\.lora_up|[._]lora\.up)\.weight")
_ALPHA = re.compile(r"(.+)\.alpha")


@dataclasses.dataclass(frozen=True)
class Factors:
    """A pair: `a [r, in, *k]`, `b [out, r, *1]`, and what its product is multiplied by."""

    a: np.ndarray
    b: np.ndarray
    scale: float = 1.0

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def product(self) -> np.ndarray:
        """`scale b a`, `[out, in, *k]` float32."""
        a, b = self.a.astype(np.float32), self.b.astype(np.float32)
        whole = self.scale * (b.reshape(b.shape[0], -1) @ a.reshape(a.shape[0], -1))
        return whole.reshape(b.shape[0], *a.shape[1:])


def read_lora(file: Path, shapes: Shapes, published: str) -> dict[str, Factors]:
    """The pairs of a file, for a base that it must fit.

    Args:
      file: safetensors, in any spelling of `names`.
      shapes: published name without `.weight` -> shape, of every matrix of the base.
      published: class of the base.

    Returns:
      Published name without `.weight` -> pair.

    Raises:
      ValueError: in one line, tensors that the base has no place for, with the nearest name, halves of pairs, and
        other shapes.
      RunError: the file is cut off or damaged.
    """
    known = spellings(shapes, published)
    halves: dict[str, dict[str, np.ndarray]] = {}
    unexpected = []
    for name, stored in read_header(file).items():
        kind, stem = _parsed(name)
        if kind is None or stem not in known:
            unexpected.append(name)
        elif kind in halves.setdefault(known[stem], {}):
            raise ValueError(f"{file}: two tensors for {known[stem]}, {name} and another spelling of it")
        else:
            halves[known[stem]][kind] = stored.read()
    single = sorted(stem for stem, found in halves.items() if not found.keys() >= {"a", "b"})
    wrong = [] if single else [w for stem, found in sorted(halves.items()) if (w := _fault(stem, found, shapes[stem]))]
    faults = [
        *listed("without a place in it", sorted(unexpected), [f"{stem}.lora_A.weight" for stem in shapes]),
        *listed("with one half of a pair", single),
        *listed("of another shape", wrong),
    ]
    if faults or not halves:
        raise ValueError(f"{file}: not a LoRA for a {published}: {'; '.join(faults) or 'it holds no pairs'}")
    scales = _scales(file)
    return {stem: _scaled(stem, found, shapes[stem], scales) for stem, found in halves.items()}


def write_lora(folder: Path, style: str, factors: Mapping[str, Factors], published: str, shapes: Shapes) -> Path:
    """Writes a file of pairs.

    Args:
      folder: where to; exists.
      style: of `STYLES`.
      factors: published name without `.weight` -> pair; all of one rank and scale.
      published: class of the base.
      shapes: as in `read_lora`.

    Returns:
      The file.

    Raises:
      ValueError: a class that nothing in ComfyUI has.
    """
    tensors: dict[str, np.ndarray] = {}
    metadata = {"format": "pt"}
    if style == "comfy":
        known = comfy_spellings(shapes, published)
        for stem, pair in factors.items():
            tensors |= _with_scale(known[stem], pair)
    else:
        for stem, pair in factors.items():
            spelling = peft_spelling(stem, published)
            tensors |= {spelling.name + spelling.down: pair.a, spelling.name + spelling.up: pair.b}
        metadata[METADATA] = json.dumps(_metadata(factors, prefix_of(published)), indent=2, sort_keys=True)
    file = folder / WEIGHTS_NAME
    save_file(tensors, file, metadata)
    return file


def _with_scale(spelling: Spelling, pair: Factors) -> dict[str, np.ndarray]:
    """The tensors of a pair, which say its scale themselves."""
    name = spelling.name
    if not spelling.alpha:
        return {name + spelling.down: pair.a, name + spelling.up: (pair.scale * pair.b).astype(pair.b.dtype)}
    alpha = np.asarray(pair.scale * pair.rank, np.float32)
    return {name + spelling.down: pair.a, name + spelling.up: pair.b, f"{name}.alpha": alpha}


def _metadata(factors: Mapping[str, Factors], prefix: str) -> dict[str, Any]:
    """What PEFT needs to know beside the tensors."""
    (rank, scale) = next((pair.rank, pair.scale) for pair in factors.values())
    assert all((pair.rank, pair.scale) == (rank, scale) for pair in factors.values())
    config = {
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_bias": False,
        "use_rslora": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": sorted(factors),
    }
    return {f"{prefix}.{name}": value for name, value in config.items()}


def _parsed(name: str) -> tuple[str | None, str]:
    """Which half of a pair a tensor is, and of what."""
    for kind, pattern in (("a", _DOWN), ("b", _UP), ("alpha", _ALPHA)):
        if match := pattern.fullmatch(name):
            return kind, match[1]
    return None, name


def _fault(stem: str, found: Mapping[str, np.ndarray], shape: Shape) -> str | None:
    """What is wrong with the shapes of a pair; a window of ones may be there or not."""
    a, b = found["a"], found["b"]
    fits = (
        a.ndim > 1
        and b.ndim > 1
        and math.prod(b.shape) == b.shape[0] * a.shape[0]
        and (b.shape[0], math.prod(a.shape[1:])) == (shape[0], math.prod(shape[1:]))
        and _window(a.shape[2:]) == _window(shape[2:])
    )
    return None if fits else f"{stem} {list(b.shape)} x {list(a.shape)}, wanted {list(shape)} together"


def _window(sizes: Iterable[int]) -> list[int]:
    return [size for size in sizes if size != 1]


def _scaled(stem: str, found: Mapping[str, np.ndarray], shape: Shape, scales: "_Scales") -> Factors:
    rank = found["a"].shape[0]
    scale = float(found["alpha"]) / rank if "alpha" in found else scales.scale(stem, rank)
    a = found["a"].reshape(rank, *shape[1:])
    return Factors(a, found["b"].reshape(shape[0], rank, *(1,) * (len(shape) - 2)), scale)


@dataclasses.dataclass(frozen=True)
class _Scales:
    """What PEFT's config says of scales."""

    config: Mapping[str, Any]

    def scale(self, stem: str, rank: int) -> float:
        alpha = self.config.get("lora_alpha") or rank
        for pattern, value in (self.config.get("alpha_pattern") or {}).items():
            if re.fullmatch(rf"(.*\.)?({pattern})", stem):
                alpha = value
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)


def _scales(file: Path) -> _Scales:
    """Of the file's metadata, else of PEFT's own config beside it; 1 where nobody says."""
    with safetensors.safe_open(file, "numpy") as opened:
        text = (opened.metadata() or {}).get(METADATA)
    if text is None:
        beside = file.with_name("adapter_config.json")
        return _Scales(read_json(beside) if beside.is_file() and file.name == "adapter_model.safetensors" else {})
    try:
        return _Scales({name.partition(".")[2]: value for name, value in json.loads(text).items()})
    except (ValueError, AttributeError):
        raise RunError(f"{file}: {METADATA} of its header is damaged") from None
