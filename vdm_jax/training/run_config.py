"""The whole config of a training run: its sections as the dataclasses that own them.

seed        int
init        RUN or RUN:PART                  weights to start from (`interop.origin`); None draws them
widen       fields of `model`                that may be wider than those of the weights (`adapters.wider_input`)
process     diffusion.process_from           what noise does
model, text models.networks                  the networks
objective   objectives.configuration         what is made small; None is plain denoising
lora        adapters.LoRAConfig              low-rank pairs, which then are what trains; None for none
adapter     adapters.configuration           the same of another part that is put into the network of `init`
data        a section of data_pipelines      checked there; here only its clip size and buckets are read
train       TrainConfig                      steps, batch, precision, dropout
ema, guard, optimizer, mesh, checkpoint, log, sample, compile
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from vdm_jax.adapters.configuration import Adapter, Given, adapter_from, adapter_to_dict
from vdm_jax.adapters.lora import TAG, LoRAConfig
from vdm_jax.adapters.wider_input import WIDER
from vdm_jax.config import build, to_dict
from vdm_jax.diffusion.configuration import process_from, process_to_dict
from vdm_jax.diffusion.process import Process
from vdm_jax.errors import did_you_mean
from vdm_jax.models.networks import NetworksConfig, kind_of, networks_from
from vdm_jax.objectives.configuration import objective_from, objective_to_dict
from vdm_jax.sampling.generate import SampleConfig, check_distilled
from vdm_jax.sampling.noise import noise_from
from vdm_jax.sharding import MeshConfig
from vdm_jax.training.callbacks import LogConfig
from vdm_jax.training.checkpoint import CheckpointConfig
from vdm_jax.training.ema import EMAConfig, ema_name
from vdm_jax.training.guard import GuardConfig
from vdm_jax.training.optimizer import OptimizerConfig
from vdm_jax.training.precision import check_precision
from vdm_jax.training.programs import CompileConfig
from vdm_jax.types import Bucket

BUDGET_TOLERANCE = 0.1  # tokens by which a batch may fall short of the fullest bucket


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The `train` section.

    Attributes:
      steps: of the whole run.
      batch_size: clips of one update, over all devices and microbatches; with `data.buckets`, that of the run's own
        shape.
      accumulate: microbatches per update.
      precision: of the computation, `float32` or `bfloat16`.
      masters: the same of weights and moments, see `training.precision`.
      frozen: the same of weights that nothing trains; None is `masters`.
      dropout: condition -> rate at which an example loses it (`{"tokens": 0.1, "vector": {"fps": 0.1}}`).
      vector: batch entries that become scalar conditions (`fps`).
      constants: scalar conditions that are the same for all clips, with their values (`{"ofs": 2.0}`).
      tokens: text tokens of a clip, where text features come with the data (no section `text`).
      tokens_mask: tell the network which of those are padding; most published networks are not told.
      trains: which parameters train, patterns of their paths (`nn.path_filter`); the others keep their bits.
      eval_batches: batches of held-out clips that an evaluation looks at.
    """

    steps: int = 1000
    batch_size: int = 32
    accumulate: int = 1
    precision: str = "float32"
    masters: str = "float32"
    frozen: str | None = None
    dropout: dict = dataclasses.field(default_factory=dict)
    vector: tuple[str, ...] = ()
    constants: dict = dataclasses.field(default_factory=dict)
    tokens: int = 0
    tokens_mask: bool = False
    trains: tuple[str, ...] = ("*",)
    eval_batches: int = 2

    def __post_init__(self):
        check_precision(self.precision)
        check_precision(self.masters, "masters")
        check_precision(self.frozen or self.masters, "frozen")
        for name in ("steps", "batch_size", "accumulate", "eval_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)!r} must be 1 or more")
        if twice := self.constants.keys() & set(self.vector):
            raise ValueError(f"constants: {min(twice)!r} is in vector too; it is one or the other")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """See the top of this file; made by `run_config_from`.

    `clip_shape` is (T, H, W, C) of what is sampled and evaluated; `buckets` are all shapes of training batches.
    """

    seed: int
    process: Process
    networks: NetworksConfig
    clip_shape: tuple[int, int, int, int]
    buckets: tuple[Bucket, ...]
    train: TrainConfig
    ema: EMAConfig
    guard: GuardConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig
    checkpoint: CheckpointConfig
    log: LogConfig
    sample: SampleConfig
    compile: CompileConfig
    objective: Any
    init: str | None = None
    widen: tuple[str, ...] = ()
    lora: LoRAConfig | None = None
    adapter: Adapter | None = None

    @property
    def tag(self) -> str | None:
        """What chooses the parameters that were put into the network of `init`; None where there are none."""
        return TAG if self.lora is not None else None if self.adapter is None else self.adapter.tag

    @property
    def trains(self) -> tuple[str, ...]:
        """Patterns of the parameters that train: what was put in, unless `train.trains` says what else."""
        return (self.tag,) if self.tag is not None and self.train.trains == ("*",) else self.train.trains

    @property
    def given(self) -> Given:
        """What must come with a clip, but for `vector`: condition -> (shape, dtype) without the batch."""
        size = self.clip_shape[:3]
        return self.networks.given(*size) | ({} if self.adapter is None else self.adapter.given(*size))

    @property
    def may_read(self) -> frozenset[str]:
        """Conditions that the network reads where they are given."""
        return self.networks.model.may_read | self.given.keys()

    @property
    def sampled_weights(self) -> str | None:
        """The key of `TrainState.ema` that samples are made with; None for the raw weights."""
        return None if self.sample.ema is None else ema_name(self.sample.ema)


_SECTIONS: dict[str, type] = {
    "train": TrainConfig,
    "ema": EMAConfig,
    "guard": GuardConfig,
    "optimizer": OptimizerConfig,
    "mesh": MeshConfig,
    "checkpoint": CheckpointConfig,
    "log": LogConfig,
    "sample": SampleConfig,
    "compile": CompileConfig,
}
_OTHERS = ("seed", "init", "widen", "process", "model", "text", "objective", "lora", "adapter", "data")


def run_config_from(config: Mapping[str, Any]) -> RunConfig:
    """Reads a config and checks everything that can be known without devices and data.

    Args:
      config: a ConfigDict, or the mapping of a run's `config.json`.

    Raises:
      ValueError: an unknown or missing key, a wrong value, sections that contradict each other.
    """
    for key in config:
        if key not in _SECTIONS and key not in _OTHERS:
            raise ValueError(f"config.{key}: {did_you_mean(key, [*_SECTIONS, *_OTHERS])}")
    for key in ("process", "model", "data"):
        if key not in config:
            raise ValueError(f"config.{key}: missing")
    data = to_dict(config["data"])
    sections = {name: build(cls, config.get(name) or {}, f"config.{name}") for name, cls in _SECTIONS.items()}
    networks = networks_from(config["model"], config.get("text"), sections["train"].tokens)
    clip_shape = (*_clip_size(data), networks.model.channels)
    given = data.get("buckets") or ()
    buckets = tuple(build(Bucket, section, f"config.data.buckets[{i}]") for i, section in enumerate(given))
    run = RunConfig(
        seed=_whole(config.get("seed", 0), 0, "config.seed"),
        process=process_from(config["process"]),
        networks=networks,
        clip_shape=clip_shape,
        buckets=buckets or (Bucket(*clip_shape[:3], sections["train"].batch_size),),
        init=check_init(config.get("init")),
        widen=check_widen(config.get("widen")),
        lora=build(LoRAConfig, config["lora"], "config.lora") if config.get("lora") else None,
        adapter=adapter_from(config.get("adapter")),
        objective=objective_from(config.get("objective")),
        **sections,
    )
    _check(run)
    return run


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same config with every field that was left to its default written out, `data` excepted.

    So every field can be set on the command line, and `config.json` says what a run was made with even after a
    default has changed.

    Raises:
      ValueError: see `run_config_from`.
    """
    run = run_config_from(config)
    model = {"kind": kind_of(run.networks.model), **to_dict(run.networks.model)}
    if run.networks.text is not None:
        del model["text_dim"]  # follows the encoder, also when that is overridden
    return {
        "seed": run.seed,
        "init": run.init,
        "widen": run.widen,
        "process": process_to_dict(run.process),
        "model": model,
        "text": to_dict(run.networks.text),
        "objective": objective_to_dict(run.objective),
        "lora": to_dict(run.lora),
        "adapter": adapter_to_dict(run.adapter),
        "data": to_dict(config["data"]),
        **{name: to_dict(getattr(run, name)) for name in _SECTIONS},
    }


def _clip_size(data: Mapping[str, Any]) -> tuple[int, int, int]:
    names = ("frames", "height", "width")
    for name in names:
        if name not in data:
            raise ValueError(f"config.data.{name}: missing; there are {', '.join(data) or 'no fields'}")
    return tuple(_whole(data[name], 1, f"config.data.{name}") for name in names)


def _whole(value: Any, least: int, path: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{path}: {value!r} must be a whole number of {least} or more")
    return value


def check_init(value: Any) -> str | None:
    """The field `init` as it is.  Raises ValueError unless it is text, or None."""
    if value is not None and not (isinstance(value, str) and value):
        raise ValueError(f"config.init: {value!r} must be a run directory, RUN or RUN:PART, or None")
    return value


def check_widen(value: Any) -> tuple[str, ...]:
    """The field `widen` as it is; none is ().  Raises ValueError unless it is names of `WIDER`."""
    if isinstance(value, str) or not all(name in WIDER for name in value or ()):
        wrong = value if isinstance(value, str) else next(name for name in value if name not in WIDER)
        raise ValueError(f"config.widen: {did_you_mean(str(wrong), WIDER)}; names in brackets, as in ('{WIDER[0]}',)")
    return tuple(value or ())


def _check(run: RunConfig) -> None:
    """What only two sections together can get wrong."""
    try:
        run.networks.model.token_grid(*run.clip_shape[:3])
    except ValueError as error:
        section = "model" if str(error).startswith("grid") else "data"
        raise ValueError(f"config.{section}.{error}") from None
    if "tokens" in run.train.dropout and not run.networks.text_length:
        raise ValueError("config.train.dropout: 'tokens' is dropped, but config.text is None (unconditional model)")
    if run.train.tokens_mask and not run.train.tokens:
        raise ValueError("config.train.tokens_mask: True, but no text features come with the data (train.tokens is 0)")
    if run.sample.ema is not None and run.sample.ema not in run.ema.decays:
        raise ValueError(f"config.sample.ema: {run.sample.ema!r} is not one of config.ema.decays {run.ema.decays}")
    if run.log.sample_every is not None and (reads := noise_from(run.sample.noise, "config.sample.noise").reads):
        raise ValueError(
            f"config.sample.noise: reads {', '.join(sorted(reads))}, which samples made in training have none of; leave"
            " it to `vdm sample --flow`, or set log.sample_every to None"
        )
    if run.sample.prior is not None and run.log.sample_every is not None:
        raise ValueError(
            "config.sample.prior: starts from a given frame, which samples made in training have none of; leave it to"
            " `vdm sample --image`, or set log.sample_every to None"
        )
    if run.adapter is not None:
        _check_adapter(run)
    if run.objective.distilled is not None:
        _check_distilled(run)
    if run.train.batch_size % run.train.accumulate:
        size, parts = run.train.batch_size, run.train.accumulate
        raise ValueError(f"config.train.accumulate: {parts} does not divide config.train.batch_size={size}")
    labels = ("label",) if run.networks.model.classes else ()
    read, fed = {*run.networks.model.scalars, *labels}, {*run.train.vector, *run.train.constants}
    if read - fed:
        name = min(read - fed)
        field = "classes" if name == "label" else "scalars"
        raise ValueError(f"config.model.{field}: {name!r} must also be in config.train.vector (or train.constants)")
    if fed - read:
        name = min(fed - read)
        field = "vector" if name in run.train.vector else "constants"
        raise ValueError(f"config.train.{field}: {name!r} is not in config.model.scalars, nothing reads it")
    _check_buckets(run)


def _check_adapter(run: RunConfig) -> None:
    """Refuses an adapter beside low-rank pairs, and clips that it can do nothing with."""
    if run.lora is not None:
        raise ValueError("config.adapter: there is config.lora too; one of the two is trained at a time")
    try:
        run.adapter.given(*run.clip_shape[:3])
    except ValueError as error:
        raise ValueError(f"config.adapter.{error}") from None


def _check_distilled(run: RunConfig) -> None:
    """Refuses a grid that the process has not, and sampling that leaves it."""
    try:
        run.objective.distilled.levels(run.process)
    except ValueError as error:
        raise ValueError(f"config.objective.{error}") from None
    try:
        check_distilled(run.objective.distilled, run.process, run.sample)
    except ValueError as error:
        raise ValueError(f"config.sample.{error}") from None


def _check_buckets(run: RunConfig) -> None:
    """Refuses buckets the model cannot take, that differ in tokens, or that leave out the run's own shape."""
    model, counts = run.networks.model, []
    for i, bucket in enumerate(run.buckets):
        try:
            grids = [model.token_grid(frames, bucket.height, bucket.width) for frames in (bucket.frames, *bucket.pack)]
        except ValueError as error:
            where = "model" if str(error).startswith("grid") else f"data.buckets[{i}]"
            raise ValueError(f"config.{where}.{error}") from None
        if bucket.pack and "segments" not in model.may_read:
            raise ValueError(f"config.data.buckets[{i}].pack: {type(model).__name__} takes no packed clips")
        if bucket.batch % run.train.accumulate:
            parts = f"train.accumulate={run.train.accumulate} parts"
            raise ValueError(f"config.data.buckets[{i}].batch: {bucket.batch} does not divide into {parts}")
        counts.append(bucket.batch * math.prod(grids[0]))
    full = max(counts)
    fullest = run.buckets[counts.index(full)].name
    for i, (bucket, count) in enumerate(zip(run.buckets, counts)):
        if count < (1 - BUDGET_TOLERANCE) * full:
            near = round(bucket.batch * full / count)
            raise ValueError(
                f"config.data.buckets[{i}].batch: {bucket.name} is {count} tokens, {fullest} is {full};"
                f" an equal budget (within {BUDGET_TOLERANCE:.0%}) takes {near}"
            )
    own = (*run.clip_shape[:3], run.train.batch_size)
    if not any((b.frames, b.height, b.width, b.batch) == own and not b.pack for b in run.buckets):
        name = Bucket(*own).name
        raise ValueError(f"config.data.buckets: none is {name}, the run's own shape (data.*, train.batch_size)")
