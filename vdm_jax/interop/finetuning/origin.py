"""Weights that a run starts from: `config.init`.

    config.init = "runs/wan"                   an import with one network that can be trained
                  "runs/wan22:transformer_2"   one of several, by the name of its component
                  "runs/tuned"                 a trained run: the weights that it samples with
                  "runs/tuned:params"          others of them, as in `restore_weights`

What weights mean comes with them.  The options of the network, and the process, are taken from where the weights are
(`settled`); the config may state how the network computes (`HOW`), and which levels training draws and how they count
(`FREE_PROCESS`), and where it states anything else it must agree.  But in fields that its `widen` names the network may
read more than the weights did (`adapters.wider_input`); it then is no longer the published one.  Weights are then read
straight into the layout of the train state (`Origin.params`).

    RUN/origin.json        of the run that was started: all of this but the weights

So a run goes on without what it was started from, and an export can say where its weights come from.
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding, PartitionSpec

from vdm_jax.adapters.wider_input import check_wider, widened
from vdm_jax.config import build_kind, to_dict
from vdm_jax.diffusion.configuration import process_to_dict
from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.interop.families.known import FAMILIES
from vdm_jax.interop.families.unet import UNET_2D
from vdm_jax.interop.families.unet_motion import MOTION_ADAPTER, UNET_MOTION
from vdm_jax.interop.files.tensors import read_json
from vdm_jax.interop.imported import PUBLISHED, is_imported, open_imported, records_of
from vdm_jax.interop.schedulers.published import read_scheduler
from vdm_jax.models.networks import BACKBONES, HOW, kind_of
from vdm_jax.models.unet.motion import animated, animated_params
from vdm_jax.nn.path_filter import select
from vdm_jax.training.checkpoint import restore_weights
from vdm_jax.training.precision import PRECISIONS
from vdm_jax.training.run_config import check_init, check_widen, complete, run_config_from
from vdm_jax.training.run_directory import read_config, write_atomically
from vdm_jax.training.state import Params, StatePlan, define

RECORD = "origin.json"
FREE_PROCESS = ("times", "weighting", "shift")
_SCHEDULER = Path(PUBLISHED) / "scheduler" / "scheduler_config.json"


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the weights of a run come from.

    Attributes:
      init: as in the config.
      run: the directory that it names.
      part: component of an import; weights of a trained run (`params`, `ema:0.999`).
      model: section of the network, complete.
      process: section of the process; None where nobody states it.
      text: section of the text encoder that was trained with it; None otherwise.
      adapter: component whose motion modules are put into the network (AnimateDiff); None for none.
      adapted: section of the adapter that is among the weights of a trained run; None for none.
      published: `class` and `config`, its `config.json`, of a network with a published class; None otherwise.
      pipeline: the import whose text encoder and autoencoder belong to it; None where there is none.
      component: what it is called there; None where there is none.
      source: the folder it was imported from, in the end.
      digest: SHA-256 over the digests of the weights that training began with.
      wider: fields of the network, with commas between, in which the run reads more than the weights did.
    """

    init: str
    run: str
    part: str
    model: Mapping[str, Any]
    process: Mapping[str, Any] | None
    text: Mapping[str, Any] | None
    published: Mapping[str, Any] | None
    pipeline: str | None
    component: str | None
    source: str
    digest: str
    adapter: str | None = None
    adapted: Mapping[str, Any] | None = None
    wider: str = ""

    @property
    def imported(self) -> bool:
        """Whether the weights are those of an import, which holds one network, and not of a trained run."""
        return self.pipeline == self.run

    def params(self, plan: StatePlan, without: Collection[str] = (), fresh: Collection[tuple[str, ...]] = ()) -> Params:
        """The weights on the mesh of a plan, by the names of its networks; of an import, `backbone` alone.

        Args:
          plan: of the run.
          without: its networks that are not among the weights.
          fresh: paths that are not, as what stands there is put in now.

        Raises:
          ValueError: the networks of the plan are others.
          RunError: the weights are gone or damaged.
        """
        path = Path(self.run)
        if not path.is_dir():
            raise RunError(f"config.init: {path} is gone, and no checkpoint was saved yet")
        if self.imported:
            names = [self.part] if self.adapter is None else [self.part, self.adapter]
            found = [open_imported(path, name, plan.mesh, plan.rules)[name].params for name in names]
            return self._widened({"backbone": found[0] if self.adapter is None else animated_params(*found)}, plan)
        flat = flatten_dict({name: part for name, part in plan.abstract.params.items() if name not in without})
        held = {where: leaf for where, leaf in flat.items() if where not in fresh}
        abstract = self._narrow(unflatten_dict(self._as_stored(held)))
        found = restore_weights((path / "checkpoints").absolute(), self.part, abstract=abstract).state
        return self._widened(found, plan)

    def _as_stored(self, leaves: Mapping[tuple[str, ...], Any]) -> dict[tuple[str, ...], Any]:
        """The same abstract weights as the run that trained them holds them."""
        config = run_config_from(read_config(Path(self.run)))
        train = config.train
        own, still = "float32" if self.part.startswith("ema:") else train.masters, train.frozen or train.masters
        trained = leaves.keys() if still == own else select(leaves.keys(), config.trains)

        def stored(where: tuple[str, ...], leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            kind = PRECISIONS[own if where in trained else still]
            kind = kind if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype
            return jax.ShapeDtypeStruct(leaf.shape, kind, sharding=leaf.sharding)

        return {where: stored(where, leaf) for where, leaf in leaves.items()}

    def _narrow(self, abstract: Params) -> Params:
        """The shapes of the weights where the network of the run is wider; whole on every device."""
        if not self.wider:
            return abstract
        config = _network(self.model)
        _, module = BACKBONES[kind_of(config)]
        own = define(lambda rngs: {"backbone": module(config, rngs)}).abstract
        flat, own = flatten_dict(abstract), flatten_dict(own)
        for where, leaf in flat.items():
            if where in own and own[where].shape != leaf.shape:
                whole = NamedSharding(leaf.sharding.mesh, PartitionSpec())
                flat[where] = jax.ShapeDtypeStruct(own[where].shape, leaf.dtype, sharding=whole)
        return unflatten_dict(flat)

    def _widened(self, params: Params, plan: StatePlan) -> Params:
        if not self.wider:
            return params
        want = plan.abstract.params["backbone"]
        return {**params, "backbone": widened(params["backbone"], _network(self.model), want)}

    def place(self) -> tuple[Path, str] | None:
        """Directory of the imported pipeline that the network belongs to, and its name there; None where it is gone, or
        the network was imported by itself, or reads more than that of the pipeline."""
        if self.pipeline is None or self.component is None or not (Path(self.pipeline) / PUBLISHED).is_dir():
            return None
        return Path(self.pipeline), self.component

    def autoencoder(self) -> tuple[Path, str] | None:
        """Directory and component of the autoencoder of its latents; None where it is not there."""
        if self.pipeline is None or not is_imported(Path(self.pipeline)):
            return None
        names = [name for name, record in records_of(Path(self.pipeline)).items() if "Autoencoder" in record["class"]]
        return (Path(self.pipeline), names[0]) if names else None


def settled(config: Mapping[str, Any], workdir: Path | None = None) -> tuple[dict[str, Any], Origin | None]:
    """A config with what its `init` decides written out; without `init`, as it is.

    Args:
      config: of `get_config`; with `init` it needs no `model`, and no `process` where the import has a scheduler.
      workdir: of the run; one that was started already knows its origin.

    Raises:
      ValueError: `init` is no run, or none of its networks; the config states something else than it.
      RunError: its record is damaged.
    """
    init = check_init(config.get("init"))
    if init is None:
        return dict(config.items()), None
    origin = None if workdir is None else read_origin(workdir)
    origin = origin if origin is not None and origin.init == init else find_origin(init)
    widen = check_widen(config.get("widen"))
    model = _agreed("model", to_dict(config.get("model") or {}), origin.model, (*HOW, *widen), origin)
    origin = _wider(origin, model, widen)
    process = to_dict(config.get("process") or {})
    if origin.process is None and not process:
        raise ValueError(f"config.process: missing; {init} has no scheduler that would say it, so the config must")
    if origin.process is not None:
        process = _agreed("process", process, origin.process, FREE_PROCESS, origin)
    text = to_dict(config.get("text") or None)
    if text is not None and origin.text is None:
        raise ValueError(f"config.text: must be None: {init} was trained on text features that come with the data")
    if origin.text is not None:
        text = _agreed("text", text or {}, origin.text, (), origin)
    found = {**config, "model": model, "process": process, "text": text}
    if origin.adapted is not None:
        found["adapter"] = _agreed("adapter", to_dict(config.get("adapter") or {}), origin.adapted, (), origin)
    return found, origin


def find_origin(init: str) -> Origin:
    """What a config's `init` names.

    Raises:
      ValueError: no run, or no such network in it.
      RunError: its record is damaged.
    """
    run, _, part = (init, "", "") if Path(init).is_dir() else init.partition(":")
    path = Path(run)
    if is_imported(path):
        return _of_import(init, path, part)
    if not (path / "config.json").is_file() or not (path / "checkpoints").is_dir():
        near = sorted(str(p) for p in path.parent.glob("*") if p.is_dir()) if path.parent.is_dir() else []
        what = "is not a run, neither trained nor imported" if path.is_dir() else did_you_mean(run, near)
        raise ValueError(f"config.init: {run} {what}" if path.is_dir() else f"config.init: no such run: {what}")
    return _of_trained(init, path, part)


def read_origin(run: Path) -> Origin | None:
    """What a trained run was started from; None for one that drew its weights.

    Raises:
      RunError: the record is damaged.
    """
    file = run / RECORD
    if not file.is_file():
        return None
    try:
        return Origin(**read_json(file))
    except TypeError as error:
        raise RunError(f"{file}: damaged ({error})") from None


def write_origin(run: Path, origin: Origin) -> None:
    """Keeps it in the directory of the run that was started.  Raises OSError."""
    if not (run / RECORD).is_file():
        write_atomically(run / RECORD, json.dumps(dataclasses.asdict(origin), indent=1))


def _of_import(init: str, run: Path, part: str) -> Origin:
    records, modules = records_of(run), {module for _, module in BACKBONES.values()}
    able = sorted(name for name, record in records.items() if FAMILIES[record["class"]].module in modules)
    if part and part not in records:
        raise ValueError(f"config.init: component of {run}: {did_you_mean(part, records)}")
    if not able or (part and part not in able):
        named = part or ", ".join(records)
        raise ValueError(f"config.init: {named} of {run} cannot be trained here; those that can: {able or 'none'}")
    if not part and len(able) > 1:
        raise ValueError(f"config.init: {run} has {' and '.join(able)}; name one, as in {run}:{able[0]}")
    part = part or able[0]
    record = records[part]
    family, adapter = FAMILIES[record["class"]], _adapter_for(part, records)
    model, published = family.config(record["config"]), record["config"]
    if adapter is not None:
        model = animated(model, MOTION_ADAPTER.config(records[adapter]["config"]))
        family, published = UNET_MOTION, UNET_MOTION.published_config(model)
    scheduler = run / _SCHEDULER
    digests = [digest_of(run, name) for name in (part, adapter) if name]
    return Origin(
        init=init,
        run=str(run),
        part=part,
        model={"kind": kind_of(model), **to_dict(model)},
        process=process_to_dict(read_scheduler(read_json(scheduler)).process) if scheduler.is_file() else None,
        text=None,
        published={"class": family.published, "config": published},
        pipeline=str(run),
        component=part,
        source=record["source"],
        digest=digests[0] if adapter is None else hashlib.sha256("".join(digests).encode()).hexdigest(),
        adapter=adapter,
    )


def _adapter_for(part: str, records: Mapping[str, Any]) -> str | None:
    """The component with the motion modules of a UNet of pictures, as its pipeline takes them."""
    if records[part]["class"] != UNET_2D.published:
        return None
    return next((name for name, record in records.items() if record["class"] == MOTION_ADAPTER.published), None)


def _of_trained(init: str, run: Path, part: str) -> Origin:
    config = complete(read_config(run))
    if config["lora"] is not None:
        raise ValueError(
            f"config.init: {run} trained low-rank pairs beside weights of another; put them into these first:"
            f" vdm export {run} --format peft, then vdm import of its file --base {config['init']}"
        )
    average = run_config_from(config).sampled_weights
    before = read_origin(run)
    steps = sorted((int(p.name), p) for p in (run / "checkpoints").iterdir() if p.name.isdigit())
    digests = (steps[-1][1] / "digests" / "digests.json").read_bytes() if steps else b""
    return Origin(
        init=init,
        run=str(run),
        part=part or (f"ema:{average}" if average else "params"),
        model=config["model"],
        process=config["process"],
        text=config["text"],
        published=before and before.published,
        pipeline=before and before.pipeline,
        component=before and before.component,
        source=before.source if before else str(run),
        digest=hashlib.sha256(digests).hexdigest(),
        adapted=config["adapter"],
    )


def digest_of(run: Path, component: str) -> str:
    """SHA-256 over the digests of all tensors of a component of an import: the identity of its weights."""
    return hashlib.sha256(json.dumps(records_of(run)[component]["digests"], sort_keys=True).encode()).hexdigest()


def _network(section: Mapping[str, Any]) -> Any:
    """The config of a network, from its section."""
    return build_kind({kind: config for kind, (config, _) in BACKBONES.items()}, section, "config.model")


def _wider(origin: Origin, model: Mapping[str, Any], fields: tuple[str, ...]) -> Origin:
    """The origin of a network with this section, which may be wider than the weights.

    Raises:
      ValueError: it is narrower, or such a network has no such fields.
    """
    if not fields:
        return origin
    have, want = _network(origin.model), _network(model)
    try:
        check_wider(have, want, fields)
    except ValueError as error:
        raise ValueError(f"config.{error}") from None
    wider = [name for name in fields if getattr(have, name) != getattr(want, name)]
    return dataclasses.replace(origin, wider=", ".join(wider), published=None, component=None) if wider else origin


def _agreed(name: str, given: Mapping[str, Any], theirs: Mapping[str, Any], free: tuple[str, ...], origin: Origin):
    """The section of the origin, with what is free as it is given.

    Raises:
      ValueError: a field that is not free is given another value; names it.
    """
    for key, value in given.items():
        if key in theirs and key not in free and value != theirs[key]:
            raise ValueError(
                f"config.{name}.{key}: {value!r}, but the weights of {origin.init} have {theirs[key]!r}; leave it out"
            )
    return {**theirs, **given}
