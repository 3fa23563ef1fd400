"""The model card of an export, `README.md`: what the weights are, and where they come from.

What nobody but the person who publishes can know, the license for one, is left for them to state.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from vdm_jax.diffusion.configuration import process_to_dict
from vdm_jax.interop.exporting.trained import Choices, Trained
from vdm_jax.interop.finetuning.origin import Origin, digest_of
from vdm_jax.interop.imported import records_of
from vdm_jax.training.run_directory import read_config
from vdm_jax.types import Bucket

CARD = "README.md"
_LICENSE = "not stated; whoever publishes these weights states it here"


def trained_card(trained: Trained, what: str, opened: str, choices: Choices, notes: Iterable[str] = ()) -> str:
    """The card of a trained run.

    Args:
      trained: the run.
      what: the folder holds, one phrase.
      opened: Python that opens it.
      choices: see `Choices`.
      notes: what a person should know, one line each.
    """
    config = trained.config
    count = sum(leaf.size for leaf in jax.tree.leaves(trained.params["backbone"]))
    clips = _clips_per_step(config.buckets)
    rows = {
        "holds": what,
        "network": f"{count:,} parameters",
        "weights": f"`{trained.which}` of step {trained.step:,}",
        "clips": " x ".join(map(str, config.clip_shape)) + " (frames, height, width, channels)",
        "trained on": f"{round(trained.step * clips):,} clips, {clips:g} a step",
        **choices.data,
        "started from": _origin(trained.origin),
        "process": f"`{json.dumps(process_to_dict(config.process))}`",
        "sampled": f"{config.sample.solver}, {config.sample.steps} steps, guidance {config.sample.guidance:g}",
        "code": _code(trained.path),
        **_certificate(choices.certificate),
        "license": _LICENSE,
    }
    settings = json.dumps(_without_paths(read_config(trained.path)), indent=1)
    parts = [
        f"# {trained.path.absolute().name}",
        _table(rows),
        *(["## To know", "\n".join(f"- {note}" for note in notes)] if notes else []),
        "## How it is opened",
        f"```python\n{opened.strip()}\n```",
        "## Config of the run",
        f"```json\n{settings}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def imported_card(run: Path, choices: Choices) -> str:
    """The card of an imported run: the same weights again."""
    rows: dict[str, str] = {}
    for name, record in records_of(run).items():
        source = Path(record["source"]).name
        rows[name] = f"`{record['class']}` from {source}, SHA-256 of its tensors' digests `{digest_of(run, name)}`"
    dtype = "as they were, bit for bit" if choices.dtype is None else f"rounded to {choices.dtype.name}"
    rows |= {"weights": dtype, "code": _code(run), **_certificate(choices.certificate), "license": _LICENSE}
    return f"# {run.absolute().name}\n\nPublished weights, read and written again.\n\n{_table(rows)}\n"


def _clips_per_step(buckets: Iterable[Bucket]) -> float:
    """On average over the shapes of batches; a sequence may hold several clips."""
    shares = [(bucket.weight, bucket.batch * len(bucket.clips)) for bucket in buckets]
    return sum(weight * clips for weight, clips in shares) / sum(weight for weight, _ in shares)


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items())])


def _origin(origin: Origin | None) -> str:
    if origin is None:
        return "nothing: weights drawn at random"
    named = f"{Path(origin.source).name}, `{origin.part}`"
    return f"{named}, SHA-256 of its tensors' digests `{origin.digest}`" if origin.digest else named


def _code(run: Path) -> str:
    """The code versions that trained or imported it, each once."""
    starts = json.loads((run / "code.json").read_text()) if (run / "code.json").is_file() else []
    said = []
    for start in starts:
        changed = " with changes" if start.get("uncommitted_changes") else ""
        revision = f" ({start['revision'][:12]}{changed})" if start.get("revision") else ""
        said.append(f"vdm_jax {start['vdm_jax']}{revision}, jax {start['jax']}")
    return "; ".join(dict.fromkeys(said)) or "not recorded"


def _certificate(file: Path | None) -> dict[str, str]:
    """Row of the parity certificate, if there is one."""
    if file is None:
        return {}
    return {"parity certificate": f"SHA-256 `{hashlib.sha256(file.read_bytes()).hexdigest()}`"}


def _without_paths(config: Any) -> Any:
    """A config whose directories are those of nobody's machine."""
    if isinstance(config, Mapping):
        return {
            name: Path(value).name
            if name in ("shards", "init", "cache") and isinstance(value, str)
            else _without_paths(value)
            for name, value in config.items()
        }
    return [_without_paths(value) for value in config] if isinstance(config, list) else config
