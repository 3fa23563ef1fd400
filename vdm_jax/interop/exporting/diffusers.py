"""`vdm export --format diffusers`: what `from_pretrained` of a published class opens.

The class follows from the options of the network (`published_component`).  A run that started from an imported
pipeline becomes that pipeline, with the component that it trained; else it is the component by itself:

    OUT/config.json, *.safetensors, scheduler/scheduler_config.json, README.md
        text_encoder/, tokenizer/, model.py     where the text encoder was trained with it

An imported run goes back out as it came.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from vdm_jax.diffusion.configuration import SOLVERS
from vdm_jax.interop.component import Component
from vdm_jax.interop.exporting.card import CARD, imported_card, trained_card
from vdm_jax.interop.exporting.shipped import ship, write_json, write_text
from vdm_jax.interop.exporting.trained import Choices, Trained, open_trained
from vdm_jax.interop.families.dit import published_form, published_params
from vdm_jax.interop.families.family import Family
from vdm_jax.interop.families.known import FAMILIES
from vdm_jax.interop.families.latte import LATTE
from vdm_jax.interop.families.wan import WAN
from vdm_jax.interop.files.folder import check_new, whole_or_nothing
from vdm_jax.interop.files.tensors import read_json
from vdm_jax.interop.imported import INDEX, PUBLISHED, is_imported, open_imported, records_of
from vdm_jax.interop.schedulers.published import read_scheduler, scheduler_for
from vdm_jax.models.dit import DiTConfig
from vdm_jax.models.networks import BACKBONES, HOW, kind_of
from vdm_jax.models.unet import UNetConfig
from vdm_jax.training.run_config import RunConfig, run_config_from
from vdm_jax.training.run_directory import read_config

_TEXT = (
    "its text encoder was trained with it, so no pipeline has it: model.py opens it, as in"
    " open_network(TextEncoder, 'text_encoder')"
)
_MASKS = "it was told which text tokens are padding, and its class takes no mask: give it the others alone"
_MERGED = "its low-rank pairs are merged into the weights; --format peft or comfy writes them alone"


def published_class(model: Any) -> Family:
    """The published class whose `config.json` can state all options of a network.

    Raises:
      ValueError: there is none; names the option.
    """
    module = BACKBONES[kind_of(model)][1]
    able = [family for family in FAMILIES.values() if family.module is module and family.fits(model)]
    if len(able) != 1:
        said = " and ".join(family.published for family in able) or "no published class"
        raise ValueError(f"{kind_of(model)}: {said} has these options, and one class must")
    (family,) = able
    back = family.config(family.published_config(model))
    for name in _options(model):
        ours, theirs = getattr(model, name), getattr(back, name)
        if ours != theirs:
            raise ValueError(f"{name}: {ours!r} is no option of {family.published}, which has {theirs!r}")
    return family


def _options(model: Any) -> list[str]:
    """Fields of a network's config that decide what is computed."""
    return [field.name for field in dataclasses.fields(model) if field.name not in HOW]


def published_component(trained: Trained) -> Component:
    """The network of a trained run as the published class that it is.

    Raises:
      ValueError: it is none; names the options.
    """
    model, params = trained.model, trained.params["backbone"]
    if isinstance(model, DiTConfig):
        family, config = published_form(model)
        return Component(family, config, published_params(family, params))
    said = trained.origin.published if trained.origin else None
    if said is not None:  # its own words, where they hold: they may say more than ours
        family = FAMILIES[said["class"]]
        back = family.config(said["config"])
        fits = type(back) is type(model) and family.fits(model)
        if fits and all(getattr(back, name) == getattr(model, name) for name in _options(model)):
            return Component(family, model, params, said["config"])
    return Component(published_class(model), model, params)


def export_published(run: Path, out: Path, choices: Choices) -> list[str]:
    """Writes what `from_pretrained` opens; see the top of this file.

    Args:
      run: trained or imported.
      out: must not exist, or be empty.
      choices: see `Choices`.

    Returns:
      What was written and what was not, a line each.

    Raises:
      ValueError: the options of the network are those of no published class; no such weights; `out` holds something.
      RunError: a damaged checkpoint or file; `out` cannot be written.
    """
    check_new(out)
    if is_imported(run):
        return _export_imported(run, out, choices)
    check_class(run)
    trained = open_trained(run, choices.weights)
    found, place = published_component(trained), trained.origin and trained.origin.place()
    text = trained.config.networks.text is not None
    notes = [_TEXT, *([_MASKS] if found.family is WAN else [])] if text else []
    notes += [f"its class takes clips of {found.config.frames} frames, or pictures"] if found.family is LATTE else []
    notes += [_MERGED] if trained.config.lora is not None else []
    with whole_or_nothing(out) as partial:
        if place is None:
            lines = [found.family.published]
            write_beside(choices, found, partial)
        else:
            pipeline, name = place
            lines = _write_parts(pipeline, partial, choices, name)
            choices.write(found, partial / name)
            _name_in_index(partial, name, found.family)
            lines.append(f"{name}: {found.family.published}, trained")
        if text:
            write_text(trained, partial, choices)
            ship("dit.py", partial / "model.py")
        notes += _write_scheduler(partial, trained.config)
        what = f"a `{found.family.published}`" if place is None else f"a pipeline whose `{place[1]}` was trained"
        opened = _opened(found.family, None if place is None else read_json(partial / INDEX)["_class_name"])
        (partial / CARD).write_text(trained_card(trained, what, opened, choices, notes), "utf-8")
    return lines + notes


def _opened(family: Family, pipeline: str | None) -> str:
    """Python that opens what was written."""
    name = pipeline or family.published
    return f'from {family.library} import {name}\n\nopened = {name}.from_pretrained(".")'


def check_class(run: Path) -> None:
    """Refuses a network of no published class before its weights are read."""
    model = run_config_from(read_config(run)).networks.model
    try:
        published_form(model) if isinstance(model, DiTConfig) else published_class(model)
    except ValueError as error:
        other = "; --format torch takes it as it is" if isinstance(model, DiTConfig | UNetConfig) else ""
        raise ValueError(f"{run}: no published class is its network: {error}{other}") from None


def write_beside(choices: Choices, found: Component, folder: Path) -> None:
    """Writes a component into a folder that is being filled."""
    choices.write(found, folder / ".component")
    for path in (folder / ".component").iterdir():
        path.replace(folder / path.name)
    (folder / ".component").rmdir()


def _export_imported(run: Path, out: Path, choices: Choices) -> list[str]:
    if choices.weights not in (None, "params"):
        raise ValueError(
            f"weights: {choices.weights!r} is not there; {run} was imported, not trained, and has params alone"
        )
    with whole_or_nothing(out) as partial:
        if (run / PUBLISHED).is_dir():
            lines = _write_parts(run, partial, choices)
        else:
            (alone,) = open_imported(run).values()
            write_beside(choices, alone, partial)
            lines = [alone.family.published]
        (partial / CARD).write_text(imported_card(run, choices), "utf-8")
    return lines


def _write_parts(run: Path, folder: Path, choices: Choices, but: str | None = None) -> list[str]:
    """Writes an imported pipeline, one component in memory at a time; `but` is the one that is left out."""
    lines = []
    for name in records_of(run):
        if name != but:
            (part,) = open_imported(run, name).values()
            choices.write(part, folder / name)
            lines.append(f"{name}: {part.family.published}")
    for path in (run / PUBLISHED).iterdir():
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        else:
            shutil.copyfile(path, folder / path.name)
    return lines


def _name_in_index(folder: Path, name: str, family: Family) -> None:
    """The class may be another than before: a UNet of pictures that was given motion modules."""
    index = read_json(folder / INDEX)
    if index[name][1] != family.published:
        write_json(folder / INDEX, index | {name: [family.library, family.published]})


def _write_scheduler(folder: Path, config: RunConfig) -> list[str]:
    """Writes the published scheduler of a run's process and solver, unless the one that is there has that process.

    Returns:
      A line that says why there is none.
    """
    file = folder / "scheduler" / "scheduler_config.json"
    process = config.process
    if file.is_file():
        there = read_scheduler(read_json(file)).process
        if dataclasses.replace(there, times=process.times, weighting=process.weighting) == process:
            return []
        file.unlink()
    try:
        found = scheduler_for(process, SOLVERS[config.sample.solver]()).config()
    except ValueError as error:
        return [f"no scheduler_config.json: {error}"]
    write_json(file, found)
    return []
