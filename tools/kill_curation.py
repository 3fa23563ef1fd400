"""Kills `vdm curate` again and again, and holds what it publishes in the end against a run that nobody killed.

./tools/kill_curation videos --out proof --times 20 -- --frames 16 --size 256 --filter "motion>=0.01"

The run that nobody kills says how long the work takes.  The other one is killed (SIGKILL, it and all that it started)
at moments drawn so that about as much time goes by as the whole work takes; if it comes to its end before that, its
set is removed, and it is killed while it decides, writes and publishes.  Compared are all bytes of both sets, of both
tables of clips, and of everything that is measured.
"""

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.curation.curate import work_folder
from vdm_jax.cli.main import guarded
from vdm_jax.errors import RunError
from vdm_jax.media.figures import Figure, add_json_argument, figures_table, write_figures


class Curation:
    """`vdm curate` with one set of words, as a process.

    Args:
      words: inputs and options.
      out: the set to make.
    """

    def __init__(self, words: Sequence[str], out: Path):
        self.out, self.work = out, work_folder(out)
        self._command = [sys.executable, "-m", "vdm_jax.cli.main", "curate", *words, "--out", str(out), "--overwrite"]
        self._log = out.with_name(f"{out.name}.log")

    def run(self, kill_after: float | None = None) -> float:
        """Runs it to its end, or until it is killed.

        Args:
          kill_after: seconds.

        Returns:
          The seconds it took; infinity if it was killed.

        Raises:
          RunError: it failed.
        """
        begin = time.monotonic()
        with self._log.open("ab") as log:
            process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)
            try:
                status = process.wait(kill_after)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if status:
            raise RunError(f"vdm curate ended with status {status}; see {self._log}")
        return float("inf") if status is None else time.monotonic() - begin

    def contents(self) -> dict[str, str]:
        """SHA-256 of every file of the set and of what was measured, by name."""
        return {
            f"{part}/{path.relative_to(folder)}": hashlib.sha256(path.read_bytes()).hexdigest()
            for part, folder in (("set", self.out), ("work", self.work))
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def forget(self) -> None:
        """Removes the set and leaves what was measured."""
        shutil.rmtree(self.out)


def main(argv: list[str] | None = None) -> int:
    """Parses and runs; returns 1 if anything differs."""
    argv = list(sys.argv[1:] if argv is None else argv)
    end = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        prog="kill_curation", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help="as of `vdm curate`, whose options come after --")
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="new, for both sets and all results")
    parser.add_argument("--times", metavar="N", type=int, default=20, help="how often it is killed (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    add_json_argument(parser)
    args = parser.parse_args(argv[:end])
    return guarded(lambda: run(args, argv[end + 1 :]))


def run(args: argparse.Namespace, options: Sequence[str]) -> int:
    """Runs both and compares; returns the exit status."""
    if args.times < 1:
        raise ValueError(f"times: {args.times!r} is not at least 1")
    if args.out.exists() and any(args.out.iterdir()):
        raise ValueError(f"out: {args.out} is not empty; choose another place")
    args.out.mkdir(parents=True, exist_ok=True)
    words = [*args.inputs, *options]
    whole, killed = Curation(words, args.out / "whole"), Curation(words, args.out / "killed")
    seconds = whole.run()
    measured = whole.run()  # all is measured by now: what is left is to begin, decide, write and publish
    print(f"whole run: {seconds:.1f} s, of which {seconds - measured:.1f} s of measuring and encoding", flush=True)
    ends = kill(killed, args.times, seconds, measured, random.Random(args.seed))
    killed.run()
    first, second = whole.contents(), killed.contents()
    differing = sorted(name for name in {*first, *second} if first.get(name) != second.get(name))
    for name in differing[:20]:
        print(f"differs: {name}")
    figures = [
        Figure("whole_run", round(seconds, 1), "s"),
        Figure("killed", args.times, "times"),
        Figure("ended_between", ends, "times"),
        Figure("files_of_the_set", sum(name.startswith("set/") for name in first)),
        Figure("files_measured", sum(name.startswith("work/") for name in first)),
        Figure("files_that_differ", len(differing), ok=not differing),
    ]
    print(figures_table(figures))
    if args.json:
        write_figures(args.json, figures)
    return int(bool(differing))


def kill(curation: Curation, times: int, seconds: float, measured: float, draw: random.Random) -> int:
    """Kills a run so many times; returns how often it came to its end in between."""
    ends = killed = 0
    while killed < times:
        # From the first moments on, and on average long enough to have done a share of the work.
        moment = draw.uniform(0.2 * measured, measured + 2 * (seconds - measured) / times)
        if curation.run(moment) == float("inf"):
            killed += 1
            print(f"killed {killed}/{times} after {moment:.1f} s", flush=True)
        else:
            ends += 1
            curation.forget()
            seconds = measured  # nothing is left to measure
    return ends


if __name__ == "__main__":
    sys.exit(main())
