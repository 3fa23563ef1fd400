"""`vdm plan`: does a run fit on a machine that need not be there, what will it communicate, how long will it take."""

import argparse
import sys
from pathlib import Path

from ml_collections import ConfigDict

from vdm_jax.cli.config_file import load_config, override
from vdm_jax.errors import RunError
from vdm_jax.media.figures import Figure, add_json_argument, figures_table, write_figures
from vdm_jax.planning.measured import compare, measured_step_seconds
from vdm_jax.planning.plan import Plan, make_plan
from vdm_jax.planning.report import figures, ranking, ranking_figures, report
from vdm_jax.planning.search import search
from vdm_jax.planning.targets import parse_target, use_cpu
from vdm_jax.training.run_config import RunConfig, run_config_from
from vdm_jax.training.run_directory import read_config

EXAMPLE = """
vdm plan --config configs/dit_14b.py --target v5p:4x4x8
vdm plan --config configs/dit_14b.py --target v6e:16x16 --slices 2 --config.train.batch_size=512 --samples 1e8
vdm plan --config configs/dit_1b.py --target h200:64 --search
vdm plan --config configs/finetune_unet.py:svd --target v5p:2x2x2 --no-compile
vdm plan --config configs/dit_tiny.py --target cpu:8 --dump-hlo step.hlo --json plan.json
vdm plan --profile-of runs/tiny --target cpu:1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("--config", metavar="FILE", help="a file of configs/, with get_config()")
    parser.add_argument(
        "--target", metavar="KIND:SIZE", required=True,
        help="v5e, v5p, v6e or tpu7x with the chips along each dim (v5p:4x4x8), h100:N, h200:N or cpu:N",
    )  # fmt: skip
    parser.add_argument("--slices", metavar="N", type=int, default=1, help="TPU slices of that size (%(default)s)")
    parser.add_argument(
        "--memory", metavar="GIB", type=float,
        help="of each device that the step may take, all by default; a TPU's compiler is held to it",
    )  # fmt: skip
    parser.add_argument("--samples", metavar="N", type=float, help="clips to train on (steps x batch of the config)")
    parser.add_argument(
        "--search", metavar="N", type=int, nargs="?", const=2,
        help="try meshes, remat policies, kernels and batches; compile the best N (%(const)s)",
    )  # fmt: skip
    parser.add_argument(
        "--no-compile", action="store_true", help="calculate memory, traffic and collectives: seconds, but an estimate"
    )
    parser.add_argument("--profile-of", metavar="RUN", type=Path, help="hold the plan against what a run measured")
    parser.add_argument("--dump-hlo", metavar="FILE", type=Path, help="write the compiled program as text")
    parser.set_defaults(overrides=())
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Plans; returns the exit status, 1 if it does not fit."""
    target = parse_target(args.target, args.slices, args.memory)
    config = _config(args)
    if args.dump_hlo and (args.search is not None or not target.compiles):
        why = (
            "a search has many programs" if target.compiles else f"{target.kind} programs are calculated, not compiled"
        )
        raise ValueError(f"--dump-hlo: {why}; drop the option")
    if args.no_compile and (args.search is not None or args.dump_hlo):
        option = "--dump-hlo" if args.dump_hlo else "--search"
        raise ValueError(f"--no-compile: {option} is of what is compiled (--search 0 compiles nothing); drop one")
    if args.search is not None and args.search < 0:
        raise ValueError(f"--search: {args.search} must be 0 or more candidates to compile")
    if args.samples is not None and not args.samples > 0:
        raise ValueError(f"--samples: {args.samples:g} must be above 0")
    if args.profile_of:
        measured_step_seconds(args.profile_of)  # what cannot be read is found before the compiler is asked
    samples = args.samples or float(config.train.steps) * config.train.batch_size
    use_cpu(target.devices if target.kind == "cpu" else 1)
    if args.search is not None:
        plan, found = _search(config, target, args.search)
    else:
        plan, found = make_plan(config, target, not args.no_compile, _say), []
    print(report(plan, samples))
    found = [*figures(plan, samples), *found]
    if args.profile_of:
        measured = compare(plan, args.profile_of)
        print(f"\nmeasured by {args.profile_of}; peer: as planned\n{figures_table(measured)}")
        found += measured
    _write(args, plan, found)
    return 1 if plan.fits is False else 0


def _config(args: argparse.Namespace) -> RunConfig:
    """The config of the file, or of the run that is compared with."""
    if args.config is not None:
        return run_config_from(load_config(args.config, args.overrides))
    if args.profile_of is None:
        raise ValueError("--config: missing; a plan needs a config, or --profile-of a run")
    config = ConfigDict(read_config(args.profile_of))
    for field, value in args.overrides:
        override(config, field, value)
    return run_config_from(config)


def _search(config: RunConfig, target, compile_best: int) -> tuple[Plan, list[Figure]]:
    calculated, compiled = search(config, target, compile_best, _say)
    print(ranking(f"{len(calculated)} candidates, calculated", calculated))
    if compiled:
        print(f"\n{ranking('the best of them, compiled', compiled)}")
    best = (compiled or calculated)[0]
    print(f"\nbest: {best.candidate.overrides}\n")
    return best.plan, [*ranking_figures("calculated", calculated), *ranking_figures("compiled", compiled)]


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _write(args: argparse.Namespace, plan: Plan, found: list[Figure]) -> None:
    if args.json:
        write_figures(args.json, found)
    if args.dump_hlo is None:
        return
    if plan.compiled is None:
        raise RunError(f"--dump-hlo: nothing was compiled: {plan.too_large}")
    try:
        args.dump_hlo.write_text(plan.compiled.text)
    except OSError as error:
        raise RunError(f"--dump-hlo: cannot write {args.dump_hlo}: {error.strerror}") from None
    print(f"\ncompiled program: {args.dump_hlo}")
