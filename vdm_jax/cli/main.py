"""`vdm <verb>`: finds the verb's module, reads its options, and turns every way to fail into one line.

A verb is a module `vdm_jax.cli.<verb>` with

    EXAMPLE: str                      shown under --help; its lines can be pasted
    add_arguments(parser)             declares the options
    run(args) -> int                  does the work; the exit status

and is imported only when it is called, so that help does not wait for JAX.  `vdm curate rank` is a verb of two words,
in `vdm_jax.cli.curate_rank`.  A verb that calls
`parser.set_defaults(overrides=())` gets `--config.a.b=c` as `args.overrides = (("a.b", "c"), ...)`, and one that calls
`parser.set_defaults(passed_on=())` what stands after `--` as `args.passed_on`.

Exit status: 0 done, 1 the machine or the data failed, 2 a usage error, 130 interrupted.
"""

import argparse
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from vdm_jax import __version__
from vdm_jax.cli.huge_pages import restart_with_huge_pages
from vdm_jax.errors import RunError, did_you_mean

VERBS = {
    "curate": "turn a folder of videos into a shard set",
    "curate rank": "find the threshold of a score: one small model each, compared pair by pair",
    "worlds": "render a procedural world into a shard set",
    "encode": "turn the clips of a shard set into latents and prompt features",
    "train": "train a model, or go on with a run",
    "sample": "sample videos from a trained run",
    "plan": "say whether a run fits on a machine, and what it will cost, before there is one",
    "import": "read published weights into a run",
    "export": "write the weights of a run as published code reads them",
    "methods": "list the published methods, and how far each is",
    "claim": "measure the central claim of a published method at toy scale",
    "parity": "hold the networks here against the published ones",
    "shards": "verify, merge, cut or export shard sets",
    "inspect": "show what is in a shard set or a run",
}
COMPUTING = ("encode", "train", "sample", "curate rank", "claim")  # verbs that run a network
OUR_CODE = (Path(__file__).parents[1], Path(__file__).parents[2] / "data_pipelines")
OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are ValueErrors of one line, with the nearest right spelling."""

    def error(self, message: str) -> None:
        parsers = [
            self,
            *(p for a in self._actions if isinstance(a, argparse._SubParsersAction) for p in a.choices.values()),
        ]
        options = [option for parser in parsers for action in parser._actions for option in action.option_strings]
        for word in message.rpartition(":")[2].split() if "unrecognized" in message else ():
            near = difflib.get_close_matches(word.partition("=")[0], options, n=1, cutoff=0.5)
            if word.startswith("-") and near:
                message += f"; did you mean {near[0]}?"
                break
        raise ValueError(f"{self.prog.removeprefix('vdm ')}: {message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the entry point of `vdm`.

    Args:
      arguments: without the program's name; those of the process by default.

    Returns:
      The exit status.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None and any(" ".join(words[:count]) in COMPUTING for count in (1, 2)):
        restart_with_huge_pages()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # libraries that log C++ start-up notes to stderr
    status = guarded(lambda: dispatch(words))
    roll_call = sys.modules.get("vdm_jax.sharding.roll_call")
    if roll_call is not None:  # a run of several processes that failed in this one must not wait for the others
        roll_call.depart(status)
    return status


def dispatch(words: list[str]) -> int:
    """Calls the verb that `words` begins with.

    Raises:
      ValueError: an unknown verb or option.
    """
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return OK if words else USAGE
    if words[0] == "--version":
        print(f"vdm_jax {__version__}")
        return OK
    verb = next((verb for verb in (" ".join(words[:2]), words[0]) if verb in VERBS), None)
    if verb is None:
        raise ValueError(f"verb: {did_you_mean(words[0], VERBS)}")
    module = module_of(verb)
    return module.run(parse(verb, module, words[len(verb.split()) :]))


def module_of(verb: str) -> ModuleType:
    """Imports what does the work of a verb."""
    return importlib.import_module(f"vdm_jax.cli.{verb.replace(' ', '_')}")


def parse(verb: str, module, words: list[str]) -> argparse.Namespace:
    """Reads the options of one verb.

    Raises:
      ValueError: what is wrong, with the nearest right spelling.
    """
    parser = Parser(
        prog=f"vdm {verb}",
        description=f"{VERBS[verb][0].upper()}{VERBS[verb][1:]}.",
        epilog=f"example:\n{indent(module.EXAMPLE)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    overrides, rest = split_overrides(words)
    takes_overrides = parser.get_default("overrides") is not None
    if overrides and not takes_overrides:
        raise ValueError(f"{verb}: takes no config, so no --config.{overrides[0][0]}")
    passed_on = None
    if parser.get_default("passed_on") is not None and "--" in rest:
        rest, passed_on = rest[: rest.index("--")], tuple(rest[rest.index("--") + 1 :])
    args = parser.parse_args(rest)
    if takes_overrides:
        args.overrides = overrides
    if passed_on is not None:
        args.passed_on = passed_on
    return args


def split_overrides(words: list[str]) -> tuple[tuple[tuple[str, str], ...], list[str]]:
    """Takes `--config.a.b=c` and `--config.a.b c` out of a command line.

    Returns:
      (("a.b", "c"), ...) in the order given, and the other words.

    Raises:
      ValueError: an override without a value.
    """
    overrides, rest, remaining = [], [], iter(words)
    for word in remaining:
        if not word.startswith("--config."):
            rest.append(word)
            continue
        field, equals, value = word.removeprefix("--config.").partition("=")
        if not equals:
            value = next(remaining, None)
        if not field or value is None:
            raise ValueError(f"{word}: needs a field and a value, as in --config.train.steps=2000")
        overrides.append((field, value))
    return tuple(overrides), rest


def guarded(work: Callable[[], int]) -> int:
    """Calls `work` and reports every failure in one line; VDM_DEBUG=1 shows the traceback instead.

    Returns:
      The exit status (see the top of this file).
    """
    try:
        return work()
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except BrokenPipeError:  # `vdm inspect X | head`: nobody reads on, and the interpreter must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if os.environ.get("VDM_DEBUG", "") not in ("", "0"):
            raise
        if isinstance(error, ValueError):
            return _say(str(error), USAGE)
        if isinstance(error, RunError):
            return _say(str(error), FAILED)
        if isinstance(error, OSError):
            where = f": {error.filename}" if error.filename else ""
            return _say(f"{error.strerror or error}{where}", FAILED)
        return _say(_unexpected(error), FAILED)


def overview() -> str:
    """What `vdm --help` prints."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb.ljust(width)}  {summary}" for verb, summary in VERBS.items())
    return (
        f"usage: vdm VERB ...\n\nTrain, sample and judge video diffusion models.\n\n{verbs}\n\n"
        "vdm VERB --help shows the options of a verb and an example.  VDM_DEBUG=1 shows where an error comes from."
    )


def indent(text: str) -> str:
    """Strips a block of lines and indents each by two spaces."""
    return "\n".join(f"  {line.strip()}" for line in text.strip().splitlines())


def _unexpected(error: Exception) -> str:
    """One line for what nobody foresaw: what, and the last place of our own code it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if any(Path(frame.filename).is_relative_to(folder) for folder in OUR_CODE)]
    where = f" at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"unexpected {type(error).__name__}{where}: {first} (VDM_DEBUG=1 shows the traceback)"


def _say(message: str, status: int) -> int:
    print(f"vdm: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
