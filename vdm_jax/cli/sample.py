"""`vdm sample`: clips from a trained run, or by the pipeline of an imported one (`sample_published`)."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from vdm_jax import sharding
from vdm_jax.adapters.lora import merged
from vdm_jax.cli import sample_flow, sample_given, sample_published, sample_similar
from vdm_jax.cli.clip_files import check_out, write_clips
from vdm_jax.config import build
from vdm_jax.errors import did_you_mean
from vdm_jax.interop.finetuning.origin import Origin, read_origin
from vdm_jax.interop.imported import is_imported
from vdm_jax.interop.pipelines.families import open_pipeline
from vdm_jax.interop.pipelines.pipeline import Pipeline
from vdm_jax.media.grid import to_uint8
from vdm_jax.models.tokenizer import Tokenizer
from vdm_jax.sampling import Known, SampleConfig
from vdm_jax.sharding import MeshConfig
from vdm_jax.training.checkpoint import restore_weights
from vdm_jax.training.run import Run, assemble
from vdm_jax.training.run_config import run_config_from
from vdm_jax.training.run_directory import read_config

EXAMPLE = """
vdm sample runs/demo --prompt "a red square moves left quickly" --seed 3 --out x.mp4
vdm sample runs/demo --prompts prompts.txt --out samples/
vdm sample runs/footage --count 4 --out samples/
vdm sample runs/long --prompt "a red square" --frames 64 --out long.mp4
vdm sample runs/demo --prompts prompts.txt --out samples/ --mesh data=2,context=4
vdm sample runs/any --video clip.mp4 --given 0,7 --out between.mp4
vdm sample runs/any --image first.png --frames 40 --overlap 4 --out long.mp4
vdm sample runs/any --image first.png --similar 0.8,0.5 --match-colours --out near.mp4
vdm sample runs/warped --flow driving.mp4 --degradation 0.3 --out x.mp4
vdm sample runs/wan --prompt "a cat on a skateboard" --negative "blurred" --frames 81 --out cat.mp4
vdm sample runs/svd --image cat.png --out cat.mp4
"""
FPS = 8.0  # of files of a trained run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("run", metavar="RUN", type=Path, help="a run directory")
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="what to show; may be repeated")
    parser.add_argument("--prompts", metavar="FILE", type=Path, help="a text file, one prompt a line")
    parser.add_argument("--count", metavar="N", type=int, default=1, help="clips per prompt (%(default)s)")
    parser.add_argument("--out", metavar="PATH", type=Path, required=True, help="x.mp4, x.gif, or a directory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", metavar="K", type=int, help="solver steps; default as in the run's config")
    parser.add_argument("--guidance", metavar="W", type=float, help="guidance scale; default as in the run's config")
    parser.add_argument("--solver", help="default as in the run's config")
    parser.add_argument("--step", type=int, help="which checkpoint; default the newest")
    parser.add_argument("--weights", help="params, or ema:0.999; default as in the run's config")
    parser.add_argument(
        "--mesh",
        metavar="AXIS=N,...",
        help="devices along data, fsdp, context, tensor; default one, of all processes data",
    )
    parser.add_argument("--fps", type=float, help=f"of the files ({FPS:g}, or as published)")
    sample_given.add_arguments(parser)
    sample_similar.add_arguments(parser)
    sample_flow.add_arguments(parser)
    sample_published.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Samples and writes; returns the exit status."""
    if args.count < 1:
        raise ValueError(f"--count: {args.count} must be 1 or more")
    mesh = None if args.mesh is None else parse_mesh(args.mesh)
    prompts = _prompts(args)
    if is_imported(args.run):
        return sample_published.run(args, prompts, mesh)
    if (origin := read_origin(args.run)) is not None and origin.pipeline is not None:
        return sample_published.run(args, prompts, mesh, _tuned(args, origin, mesh))
    if others := [name for name in sample_published.given(args) if not sample_given.taken(name)]:
        raise ValueError(f"{others[0]}: only imported runs take it; {args.run} was trained here")
    _check_prompts(args.run, prompts, conditional=bool(read_config(args.run).get("text")))
    wanted = [prompt for prompt in prompts or [""] for _ in range(args.count)]
    check_out(args.out, len(wanted))
    config = run_config_from(read_config(args.run))
    sample_given.check(args, config)
    similar = sample_similar.choices(args, config)
    follow = sample_flow.followed(args, read_config(args.run))
    if follow is not None and args.overlap is not None:
        raise ValueError("--flow: is that of one clip, and --overlap makes a video of several; leave one of them out")
    with sharding.joined():
        trained = open_run(args.run, args.step, args.weights, _choices(args, follow) | similar, mesh)
        known = sample_given.read(args, trained.clip_shape)
        read = None if follow is None else follow.read(len(wanted))
        clips = trained.sample(wanted, args.seed, known=known, long=_long(args), read=read)
        clips = sample_similar.finished(args, clips, sample_given.numbers(args, trained.clip_shape[0]))
        if jax.process_index() == 0:
            for path in write_clips(args.out, zip(wanted, clips), FPS if args.fps is None else args.fps):
                print(path)
    return 0


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run opened for sampling.

    Attributes:
      run: its static half.
      params: weights.
      tokenizer: None for an unconditional model.
      step: the checkpoint's.
    """

    run: Run
    params: dict
    tokenizer: Tokenizer | None
    step: int

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of what is sampled."""
        frames, *rest = self.run.config.clip_shape
        return (self.run.config.sample.frames or frames, *rest)

    def sample(
        self,
        prompts: Sequence[str],
        seed: int,
        batch: int = 64,
        known: Known | None = None,
        long: tuple[int, int] | None = None,
        read: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """One clip a prompt (prompts of an unconditional model are only counted).

        Args:
          prompts, seed: of the clips.
          batch: how many are made at once.
          known: what is given of each, `mask [1, T]` and `value [1, T, H, W, C]`.
          long: (frames, overlap) of videos that are made chunk by chunk; None is one clip each.
          read: what the noise that clips start from reads, `{key: [N, ...]}`.

        Returns:
          uint8 `[N, T, H, W, 3]`.
        """
        generate, clips = self.run.generator(), []
        for start in range(0, len(prompts), batch):
            part = prompts[start : start + batch]
            text = self.tokenizer.encode(part) if self.tokenizer else len(part)
            key, given = jax.random.fold_in(jax.random.key(seed), start), sample_given.for_batch(known, len(part))

            mine = {name: value[start : start + batch] for name, value in (read or {}).items()}

            def one(number: int, known: Known | None, text=text, key=key, mine=mine) -> np.ndarray:
                own = key if number == 0 else jax.random.fold_in(key, number)
                return jax.device_get(generate(self.params, text, own, mine, known))

            if long is None:
                clips.append(to_uint8(one(0, given)))
            else:
                clips.append(to_uint8(sample_given.long_clips(one, given, long[0], self.clip_shape[0], long[1])))
        return np.concatenate(clips)


def open_run(
    path: Path,
    step: int | None = None,
    which: str | None = None,
    choices: dict | None = None,
    mesh: MeshConfig | None = None,
) -> TrainedRun:
    """Opens a run directory for sampling.

    Args:
      path: the run.
      step: which checkpoint; None is the newest intact one.
      which: `params` or `ema:<decay>`; None is what the config samples with.
      choices: fields of `SampleConfig` to set otherwise.
      mesh: of the sampler, whatever the run was trained on; None is one device, or of several processes all devices
        along `data`.

    Raises:
      ValueError, RunError: see `read_config`, `assemble` and `restore_weights`.
    """
    config = run_config_from(read_config(path))
    sample = {**dataclasses.asdict(config.sample), **(choices or {})}
    alone = mesh is None and jax.process_count() == 1
    config = dataclasses.replace(
        config, sample=build(SampleConfig, sample, "sample"), mesh=mesh or MeshConfig(), buckets=()
    )
    tokenizer = Tokenizer.load(path / "tokenizer.json") if config.networks.text else None
    null = tokenizer.encode([""]) if tokenizer else None
    whole = assemble(config, tokenizer.vocab_size if tokenizer else 0, null, jax.devices()[:1] if alone else None)
    average = config.sampled_weights
    which = which or (f"ema:{average}" if average else "params")
    abstract = whole.plan.abstract.params
    restored = restore_weights((path / "checkpoints").absolute(), which, step=step, abstract=abstract)
    return TrainedRun(whole, restored.state, tokenizer, restored.step)


def _tuned(args: argparse.Namespace, origin: Origin, mesh: MeshConfig | None) -> sample_published.OpenTrained:
    """Opens the pipeline that a run was started from, with the run's weights in it.

    Raises:
      ValueError: the import is gone, or was a network by itself.
    """
    place = origin.place()
    if origin.wider:
        raise ValueError(
            f"{args.run}: reads more {origin.wider} than the pipeline of {origin.pipeline} would give it; `open_run` of"
            " vdm_jax.cli.sample opens the network itself, to sample latents with"
        )
    if place is None:
        raise ValueError(
            f"{args.run}: its prompts are encoded and its clips decoded by the pipeline it started from, and"
            f" {origin.pipeline} holds none; import the whole folder there, with its model_index.json"
        )
    if (adapter := read_config(args.run).get("adapter")) is not None:
        raise ValueError(
            f"{args.run}: the pipeline of {origin.pipeline} has no place for its adapter ({adapter['kind']});"
            " `open_run` of vdm_jax.cli.sample opens the adapted network itself, to sample latents with"
        )

    def opened(placed: Mesh | None) -> Pipeline:
        trained = open_run(args.run, args.step, args.weights, mesh=mesh)
        params, lora = trained.params["backbone"], trained.run.config.lora
        params = params if lora is None else merged(params, lora.scale)
        return open_pipeline(place[0], placed, {place[1]: params})

    return opened


def parse_mesh(text: str) -> MeshConfig:
    """`data=2,context=4` as a config.

    Raises:
      ValueError: no such axis, or no number.
    """
    sizes = {}
    for part in text.split(","):
        axis, _, size = part.partition("=")
        if axis not in sharding.AXES:
            raise ValueError(f"--mesh: {did_you_mean(axis, sharding.AXES)}")
        if not size.lstrip("-").isdigit():
            raise ValueError(f"--mesh: {part!r} is not an axis and its size, as in data=2,context=4")
        sizes[axis] = int(size)
    return MeshConfig(**{"data": 1, **sizes})


def _long(args: argparse.Namespace) -> tuple[int, int] | None:
    return None if args.overlap is None else (args.frames, args.overlap)


def _choices(args: argparse.Namespace, follow: sample_flow.Followed | None) -> dict:
    names = ("steps", "guidance", "solver", *(("frames",) if args.overlap is None else ()))
    given = {name: getattr(args, name) for name in names}
    return {name: value for name, value in given.items() if value is not None} | (follow.choices if follow else {})


def _prompts(args: argparse.Namespace) -> list[str]:
    prompts = list(args.prompt or [])
    if args.prompts is not None:
        if not args.prompts.is_file():
            raise ValueError(f"--prompts: no file {args.prompts}")
        prompts += [line.strip() for line in args.prompts.read_text("utf-8").splitlines() if line.strip()]
    return prompts


def _check_prompts(run: Path, prompts: list[str], conditional: bool) -> None:
    if conditional and not prompts:
        raise ValueError(f"--prompt: missing; {run} was trained with captions and needs one")
    if not conditional and prompts:
        raise ValueError(f"--prompt: {run} is an unconditional model, it was trained without captions; leave it out")
