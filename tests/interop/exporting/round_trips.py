"""Tiny published networks that are trained here on a latent set and given back; a further family is one entry.

trip.imported(folder)            the network, every weight drawn, and its scheduler, published and imported
trip.write_set(folder / "set")   latents, and every condition that the network reads, as `vdm encode` stores them
found = train(trip, folder)      `STEPS` steps from `config.init`, by the loader and the step of every run
sampled_here, sampled_there      `SAMPLING` steps of the published scheduler from the same noise
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.loading.loader import DataConfig, make_loader
from data_pipelines.shards.latent_writer import open_latent_writer, plan_for
from data_pipelines.shards.latents import Entry, LatentRecord, LatentSpec
from tests.interop.pipelines.oracle import network, noise, scheduler
from vdm_jax.cli.latent_data import condition_of, read_conditions, stored_for, with_null
from vdm_jax.config import build
from vdm_jax.diffusion.configuration import process_to_dict
from vdm_jax.interop.cases import cogvideox, latte, unet, wan
from vdm_jax.interop.families.unet import SVD_SCALARS
from vdm_jax.interop.files.tensors import read_json
from vdm_jax.interop.finetuning.origin import settled, write_origin
from vdm_jax.interop.imported import import_folder
from vdm_jax.interop.parity import Case, open_published
from vdm_jax.interop.schedulers.published import read_scheduler
from vdm_jax.sampling import make_denoiser, sample
from vdm_jax.sharding import place_batch
from vdm_jax.training.checkpoint import CheckpointConfig, Checkpointer, StepMeta
from vdm_jax.training.run import Run, assemble
from vdm_jax.training.run_config import complete, run_config_from
from vdm_jax.training.state import TrainState
from vdm_jax.training.step import make_train_step

STEPS, BATCH, CLIPS, SAMPLING = 50, 2, 6, 4


@dataclasses.dataclass(frozen=True)
class Trip:
    """A family.

    Attributes:
      case: how its network is called there; its inputs say the shapes of clips and conditions.
      pipeline, component: the published pipeline, and what the network is called in it.
      scheduler: a published one, by the name of its file.
      changes: options of the network, in place of the case's.
      tabled: options of the scheduler, in place of the file's.
      image_tokens: of `image`; 0 is those of the case.
      numbers: stored with each clip, by name.
      train: of the config's section.
      told: `vector` as the case takes it there.
      null: every number of the empty prompt's features.
      trains: part of the published names of what trains.
      still: parts of the names of what cannot, as nothing depends on it.
    """

    case: Case
    pipeline: str
    component: str
    scheduler: str
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tabled: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    image_tokens: int = 0
    numbers: tuple[str, ...] = ()
    train: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    told: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
    null: float = 0.5
    trains: str = ""
    still: tuple[str, ...] = ("to_k.bias", "norm_k.bias")  # the same is added to all scores

    @property
    def published(self) -> dict[str, Any]:
        """Its `config.json`."""
        return {**self.case.published, **self.changes}

    @property
    def clip(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of latents."""
        return self.case.inputs["x"][1:]

    def spec(self) -> LatentSpec:
        """What a latent set of it holds."""
        shapes = {
            name: self.case.inputs[name][1:] for name in ("tokens", "concat", "image") if name in self.case.inputs
        }
        if self.image_tokens:
            shapes["image"] = (self.image_tokens, *shapes["image"][1:])
        shapes |= {f"vector.{name}": () for name in self.numbers}
        entries = {name: Entry(shape, "float32") for name, shape in shapes.items()}
        return LatentSpec(*self.clip, "float32", (self.clip[0], 8 * self.clip[1], 8 * self.clip[2]), entries)

    def write_set(self, folder: Path) -> None:
        """Clips whose latents and conditions are drawn from the number of the clip."""
        spec = self.spec()
        plan = plan_for(spec, {"train": CLIPS}, {"pipeline": self.pipeline}, {}, 256 << 20)
        null = {"tokens": np.full(spec.conditions["tokens"].shape, self.null)}
        with open_latent_writer(folder, plan, null) as writer:
            for part in writer.missing():
                writer.write(part, (_clip(spec, k) for k in range(part.start, part.stop)))
            writer.finish()

    def imported(self, folder: Path) -> Path:
        """Publishes the network with its scheduler, and imports both."""
        files = folder / "published"
        module, steps = network(self.case.family, self.published, 1), scheduler(self.scheduler, **self.tabled)
        module.save_pretrained(files / self.component)
        steps.save_pretrained(files / "scheduler")
        parts = {self.component: module, "scheduler": steps}
        index = {name: ["diffusers", type(part).__name__] for name, part in parts.items()}
        (files / "model_index.json").write_text(json.dumps({"_class_name": self.pipeline, **index}))
        import_folder(files, folder / "import")
        return folder / "import"


def _clip(spec: LatentSpec, number: int) -> LatentRecord:
    rng = np.random.default_rng(number)
    kept = {name: np.float32(rng.standard_normal(entry.shape)) for name, entry in spec.conditions.items()}
    latents = np.float32(rng.standard_normal(spec.decoded_shape))
    return LatentRecord(latents, kept, f"clip {number}", 8.0, f"{number}.mp4", 0.0, "train", number)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run after its steps: its state, the losses, and the conditions of one more batch."""

    run: Run
    state: TrainState
    losses: list[float]
    cond: dict[str, Any]


def train(trip: Trip, folder: Path) -> Trained:
    """Trains what `folder/import` holds on `folder/set`, and leaves a run in `folder/run`."""
    raw, origin = settled(_config(trip, folder))
    config, data = run_config_from(raw), build(DataConfig, raw["data"], "config.data")
    stored = stored_for(config, data, origin)
    run = assemble(config, devices=jax.devices()[:1])
    state = run.plan.start_from(with_null(origin.params(run.plan), stored, run.plan.abstract.params))
    step, losses = make_train_step(run.plan, run.step_config(), config.seed), []
    reading = {"tokenizer_fn": lambda captions: {}, "conditions": read_conditions(config, stored)}
    with make_loader(data, "train", config.buckets, config.seed, **reading) as loader:
        for _ in range(STEPS):
            state, metrics = step(state, place_batch(next(loader), run.mesh))
            losses.append(float(metrics["loss"]))
        cond = condition_of(config, next(loader))
    (folder / "run").mkdir()
    (folder / "run/config.json").write_text(json.dumps(complete(raw)))
    write_origin(folder / "run", origin)
    with Checkpointer(folder / "run/checkpoints", CheckpointConfig()) as checkpointer:
        checkpointer.save(STEPS, {"params": state.params}, StepMeta(process_to_dict(config.process), {}, {}))
    return Trained(run, state, losses, cond)


def _config(trip: Trip, folder: Path) -> dict[str, Any]:
    frames, height, width, _ = trip.clip
    return {
        "seed": 3,
        "init": str(folder / "import"),
        "data": {"shards": str(folder / "set"), "frames": frames, "height": height, "width": width},
        "train": {"steps": STEPS, "batch_size": BATCH, "tokens": trip.case.inputs["tokens"][1], **trip.train},
        "optimizer": {"learning_rate": 1e-3, "warmup": 2, "schedule": "constant", "weight_decay": 0.0},
        "ema": {"decays": ()},
        "mesh": {"data": 1},
        "sample": {"guidance": 1.0, "clip_x0": False},
    }


def sampled_here(trip: Trip, found: Trained, published: Path) -> np.ndarray:
    """Published latents `[B, T, H, W, C]` by the weights of the run and what a published scheduler says."""
    steps = read_scheduler(read_json(published / "scheduler/scheduler_config.json"))
    plan, process = steps.plan(SAMPLING), steps.process

    @jax.jit
    def run(params, cond, start):
        backbone = found.run.plan.networks.merge(params)["backbone"]
        denoiser = make_denoiser(process, backbone, plan.told_by(process))
        options = {"solver": plan.solver, "hooks": plan.hooks, "lands": plan.lands, "rising": plan.rising}
        return sample(denoiser, process, plan.start(start), plan.levels, cond, **options)

    start = jnp.asarray(noise(BATCH, *trip.clip))
    return np.float32(plan.units[-1]) * np.asarray(run(found.state.params, found.cond, start))


def sampled_there(trip: Trip, cond: Mapping[str, Any], published: Path) -> np.ndarray:
    """The same by the published classes of the network and of the scheduler, opened strictly."""
    import diffusers
    import torch

    module = open_published(trip.case.family, published / trip.component)
    said = read_json(published / "scheduler/scheduler_config.json")
    steps = getattr(diffusers, said["_class_name"]).from_pretrained(published / "scheduler")
    steps.set_timesteps(SAMPLING)
    inputs = {name: torch.from_numpy(value) for name, value in cond.items() if name != "vector"}
    if "vector" in cond:
        inputs |= trip.told({name: torch.from_numpy(value) for name, value in cond["vector"].items()})
    x = torch.from_numpy(noise(BATCH, *trip.clip)) * steps.init_noise_sigma
    with torch.no_grad():
        for time in steps.timesteps:
            called = {"x": steps.scale_model_input(x, time), "time": time.expand(BATCH), **inputs}
            out = trip.case.theirs(module, called)[..., : x.shape[-1]]  # some have a variance behind it
            x = steps.step(out, time, x, return_dict=False)[0]
    return x.numpy()


def _svd_numbers(vector: Mapping[str, Any]) -> dict[str, Any]:
    """In the order of `added_time_ids`."""
    import torch

    return {"vector": torch.stack([vector[name] for name in SVD_SCALARS], dim=1)}


def _case(cases: tuple[Case, ...], name: str) -> Case:
    return next(case for case in cases if case.name == name)


_DROPS = {"dropout": {"tokens": 0.2}}
_ONE_LEVEL = {"block_out_channels": [32]}

TRIPS: dict[str, Trip] = {
    "wan": Trip(
        _case(wan.CASES, "text-to-video"), "WanPipeline", "transformer", "wan_unipc_480p", train=_DROPS,
    ),
    "wan image-to-video": Trip(
        _case(wan.CASES, "image-to-video"), "WanImageToVideoPipeline", "transformer", "wan_unipc_480p",
        image_tokens=257, train=_DROPS,
    ),
    "latte": Trip(
        _case(latte.CASES, "clip"), "LattePipeline", "transformer", "sd15_ddim", train=_DROPS,
        tabled={"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "steps_offset": 0},
    ),
    "cogvideox": Trip(
        _case(cogvideox.CASES, "1.5 image-to-video"), "CogVideoXImageToVideoPipeline", "transformer",
        "cogvideox_5b_ddim", changes={"num_layers": 1}, numbers=("ofs",), train={**_DROPS, "vector": ("ofs",)},
    ),
    "motion": Trip(
        _case(unet.CASES, "AnimateDiff"), "AnimateDiffPipeline", "unet", "animatediff_ddim",
        changes={**_ONE_LEVEL, "down_block_types": ["DownBlockMotion"], "up_block_types": ["UpBlockMotion"]},
        train={**_DROPS, "trains": ("attention_time",)}, trains="motion_modules", still=("pos_embed",),
    ),
    "convolution": Trip(
        _case(unet.CASES, "ModelScope"), "TextToVideoSDPipeline", "unet", "modelscope_ddim",
        changes={**_ONE_LEVEL, "down_block_types": ["DownBlock3D"], "up_block_types": ["UpBlock3D"]}, train=_DROPS,
    ),
    "mixed": Trip(
        _case(unet.CASES, "Stable Video Diffusion"), "StableVideoDiffusionPipeline", "unet", "svd_euler",
        changes={
            "block_out_channels": [64], "num_attention_heads": [2], "down_block_types": ["DownBlockSpatioTemporal"],
            "up_block_types": ["UpBlockSpatioTemporal"],
        },
        numbers=("fps", "augmentation"), told=_svd_numbers, null=0.0,
        train={
            "vector": ("fps", "augmentation"), "constants": {"motion": 127.0},
            "dropout": {"tokens": 0.2, "concat": 0.2},
        },
        still=("attn2.to_q", "attn2.to_k", "norm2"),  # attention to one token is that token
    ),
}  # fmt: skip
