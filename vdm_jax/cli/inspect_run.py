"""The half of `vdm inspect` that looks at a run: parameters, steps, process, metrics, samples."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict

from vdm_jax.errors import RunError
from vdm_jax.media.figures import Figure, figures_table
from vdm_jax.media.grid import contact_sheet
from vdm_jax.media.video import decode
from vdm_jax.training.checkpoint import FROZEN, read_meta
from vdm_jax.training.digests import find_damage
from vdm_jax.training.run_directory import read_config

SHOWN = 12


def inspect_run(path: Path, everything: bool, parameters: bool, draw: bool) -> tuple[list[Figure], np.ndarray | None]:
    """Prints a run.

    Args:
      path: the workdir.
      everything: compare every checkpoint with its digests.
      parameters: list every parameter, not only their number per part.
      draw: make a contact sheet.

    Returns:
      The figures, and a contact sheet of the newest samples if it was asked for and there are any.

    Raises:
      RunError: the config, the metrics or the newest checkpoint cannot be read.
    """
    config = read_config(path)
    steps = committed_steps(path / "checkpoints")
    print(f"run {path}")
    figures = [Figure("checkpoints", len(steps))]
    if steps:
        figures += _newest(path / "checkpoints" / str(steps[-1]), parameters)
    figures += _metrics(path / "metrics.jsonl")
    if everything:
        figures += [_intact(path / "checkpoints" / str(step), str(step)) for step in steps]
        figures += [_intact(step, FROZEN) for step in (path / FROZEN).glob("0")]
    print(figures_table(figures))
    print(f"steps saved: {' '.join(map(str, steps)) or 'none yet'}")
    print(f"config: {json.dumps(config)}")
    return figures, _sheet(path / "samples") if draw else None


def committed_steps(checkpoints: Path) -> list[int]:
    """Steps whose checkpoints are complete, oldest first (an unfinished one bears another name)."""
    if not checkpoints.is_dir():
        return []
    return sorted(int(p.name) for p in checkpoints.iterdir() if p.name.isdigit())


def last_metrics(file: Path) -> dict[str, float]:
    """The latest value of every metric in `metrics.jsonl`; a last line that is still being written is passed over.

    Raises:
      RunError: the file is damaged.
    """
    latest: dict[str, float] = {}
    lines = file.read_text().splitlines() if file.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            latest |= json.loads(line)
        except ValueError:
            if number < len(lines):
                raise RunError(f"{file}: line {number} is damaged") from None
    return latest


def parameter_rows(tree: Mapping[str, Any], depth: int | None) -> Iterator[tuple[str, str, int]]:
    """Yields (name, shape, number of parameters) of a tree of arrays; `depth` merges what lies deeper."""
    grouped: dict[str, list] = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        names = [str(getattr(key, "key", getattr(key, "idx", key))) for key in keys]
        grouped.setdefault("/".join(names[:depth]), []).append(leaf)
    for name, leaves in grouped.items():
        shape = f"{leaves[0].dtype}{list(leaves[0].shape)}" if len(leaves) == 1 else f"{len(leaves)} arrays"
        yield name, shape, sum(math.prod(leaf.shape) for leaf in leaves)


def _newest(step: Path, parameters: bool) -> list[Figure]:
    """Prints the parameters and the process of one checkpoint; reads no weights, only what is said about them."""
    try:
        meta = read_meta(step)
        state = _layout(step)
        frozen = [_layout(found)["params"] for found in (step.parents[1] / FROZEN).glob("0")]
    except Exception as error:  # Orbax raises whatever the damaged file provokes
        raise RunError(f"checkpoint {step}: cannot be read ({type(error).__name__}); try --verify") from None
    networks = _together(state["params"], *frozen)
    rows = list(parameter_rows(networks, None if parameters else 2))
    widths = [max(len(str(row[i])) for row in rows) for i in range(2)]
    for name, shape, size in rows:
        print(f"  {name.ljust(widths[0])}  {shape.ljust(widths[1])}  {size:>14,}")
    print(f"process: {json.dumps(meta.process)}")
    if meta.code:
        print(f"code: {json.dumps(meta.code)}")
    counts = {name: sum(row[2] for row in parameter_rows(tree, None)) for name, tree in networks.items()}
    return [
        Figure("step", int(step.name)),
        Figure("process", str(meta.process.get("kind", "unknown"))),
        Figure("parameters", sum(counts.values())),
        *(Figure(f"parameters_{name}", count) for name, count in counts.items()),
        Figure("ema_decays", ", ".join(state.get("ema") or {}) or "none"),
    ]


def _layout(step: Path) -> dict:
    """Shapes and dtypes of the arrays of a checkpoint."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        return reader.metadata(step.absolute() / "state").item_metadata.tree


def _together(*parts: Mapping[str, Any]) -> dict[str, Any]:
    return unflatten_dict({path: leaf for part in parts for path, leaf in flatten_dict(part).items()})


def _metrics(file: Path) -> list[Figure]:
    latest = last_metrics(file)
    step = latest.pop("step", None)
    figures = [] if step is None else [Figure("last_logged_step", int(step))]
    return figures + [Figure(f"metric/{name}", value) for name, value in latest.items()]


def _intact(step: Path, name: str) -> Figure:
    damage = find_damage(step)
    if damage:
        print(f"checkpoint {name} is damaged: {damage}")
    return Figure(f"intact_{name}", damage is None, ok=damage is None)


def _sheet(samples: Path) -> np.ndarray | None:
    """The newest sample videos as one picture, or None where there are none."""
    videos = [p for p in samples.rglob("*.mp4") if not p.name.startswith(".")] if samples.is_dir() else []
    videos = sorted(videos, key=lambda p: (p.stat().st_mtime, p.name))[-SHOWN:]
    if not videos:
        print("samples: none yet")
        return None
    return contact_sheet([decode(p) for p in videos], [p.stem for p in videos], height=72, columns=2)
