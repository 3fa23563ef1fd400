"""Writes a corpus of mixed files with exact labels, and measures curation against them.

./tools/corpus OUT --files 2000          writes it (some minutes on one core)
./tools/corpus OUT --judge               reads what is there: reasons of broken files, cuts against the labels
"""

import argparse
import collections
import dataclasses
import sys
import time
from pathlib import Path

from data_pipelines.curation.cuts import FADE, HARD, Cut, CutSettings, find_cuts
from data_pipelines.curation.probe import probe
from data_pipelines.worlds.footage.corpus import FootageSettings, Label, read_labels, write_footage
from vdm_jax.cli.counter import Counter
from vdm_jax.cli.main import guarded
from vdm_jax.media.figures import Figure, add_json_argument, figures_table, write_figures
from vdm_jax.media.video import VideoError

LEAST_F1, LEAST_SPEED = 0.95, 20.0


@dataclasses.dataclass
class Tally:
    """Cuts that were found and are there, that are not there, and that were missed; those found as the right kind."""

    right: int = 0
    false: int = 0
    missed: int = 0
    kinds: int = 0

    @property
    def f1(self) -> float:
        """2 right / (2 right + false + missed)."""
        return 2 * self.right / max(1, 2 * self.right + self.false + self.missed)

    @property
    def there(self) -> int:
        """Cuts that are there."""
        return self.right + self.missed

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))


def tallied(label: Label, found: list[Cut], rate: float) -> dict[str, Tally]:
    """Counts one file, by kind of cut: those that are there by what they are, false ones by what they were taken for.

    A hard cut counts within one picture at the rate of the analysis, a fade within its pictures.
    """
    tallies = {HARD: Tally(), FADE: Tally()}
    left, reach = list(found), 1 / min(label.fps, rate) + 0.02
    for cut in label.cuts:
        hits = [c for c in left if cut["start"] - reach <= c.time <= cut["end"] + reach]
        tallies[cut["kind"]] += Tally(right=1, kinds=int(hits[0].kind == cut["kind"])) if hits else Tally(missed=1)
        left = [c for c in left if c not in hits[:1]]
    for cut in left:
        tallies[cut.kind] += Tally(false=1)
    return tallies


def main(argv: list[str] | None = None) -> int:
    """Parses and runs; returns 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="corpus", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the corpus")
    parser.add_argument("--files", metavar="N", type=int, default=2000, help="videos and pictures (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (%(default)s)")
    parser.add_argument("--judge", action="store_true", help="read the corpus that is there")
    add_json_argument(parser)
    args = parser.parse_args(argv)
    return guarded(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Writes or judges; returns the exit status."""
    if args.judge:
        figures = judge(args.out)
    else:
        started = time.monotonic()
        labels = write_footage(args.out, FootageSettings(args.files, args.seed), Counter("corpus", "files"))
        figures = [Figure("files", len(labels)), Figure("written_in", time.monotonic() - started, "s")]
    print(figures_table(figures))
    if args.json:
        write_figures(args.json, figures)
    return int(any(figure.ok is False for figure in figures))


def judge(folder: Path) -> list[Figure]:
    """Probes every file of a corpus and looks for its cuts.

    Raises:
      ValueError: there is no corpus.
    """
    if not (folder / "labels.jsonl").is_file():
        raise ValueError(f"out: {folder} holds no labels.jsonl; write the corpus first")
    labels, settings = read_labels(folder), CutSettings()
    tallies, reasons, seconds, spent = collections.defaultdict(Tally), 0, 0.0, 0.0
    count = Counter("corpus", "files")
    for done, label in enumerate(labels, 1):
        try:
            probe(folder / label.name)
            said = ""
        except VideoError as error:
            said = error.reason
        reasons += said == label.reason
        if label.kind == "video" and not said:
            started = time.process_time()
            found = find_cuts(folder / label.name, settings)
            spent, seconds = spent + time.process_time() - started, seconds + label.duration
            defects = {f"with_{defect['kind']}" for defect in label.defects} or {"without_defects"}
            for kind, tally in tallied(label, found, settings.rate).items():
                for part in ("", kind, *defects):
                    tallies[part] += tally
        count(done, len(labels), label.name)
    whole, speed = tallies.pop(""), seconds / max(spent, 1e-9)
    return [
        Figure("reasons_right", reasons / len(labels), n=len(labels), ok=reasons == len(labels)),
        Figure("cuts_f1", whole.f1, n=whole.there, ok=whole.f1 >= LEAST_F1),
        Figure("cuts_precision", whole.right / max(1, whole.right + whole.false)),
        Figure("cuts_recall", whole.right / max(1, whole.there)),
        *(
            Figure(
                f"cuts_f1_{part}",
                tally.f1,
                n=tally.there,
                ok=tally.f1 >= LEAST_F1 if part == "without_defects" else None,
            )
            for part, tally in sorted(tallies.items())
            if tally.there
        ),
        Figure("kinds_right", whole.kinds / max(1, whole.right), n=whole.right),
        Figure("cuts_speed", speed, "x real time", ok=speed >= LEAST_SPEED),
    ]


if __name__ == "__main__":
    sys.exit(main())
