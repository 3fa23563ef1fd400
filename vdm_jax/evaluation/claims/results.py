"""What running a claim leaves: `results.json` in the method's folder, and one table of all methods, `RESULTS.md`."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vdm_jax.evaluation.claims.claim import Claim, Measured, Verdict, judge, state_of
from vdm_jax.evaluation.claims.methods import RESULTS, Method
from vdm_jax.media.figures import Figure


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A claim as run.

    Attributes:
      claim: what was run.
      budget: see `lab.BUDGETS`.
      measured: seed -> measurements.
      seconds: seed -> wall time of its measurement.
    """

    claim: Claim
    budget: str
    measured: Mapping[int, Measured]
    seconds: Mapping[int, float]

    @property
    def verdicts(self) -> list[Verdict]:
        return judge(self.claim, list(self.measured.values()))

    @property
    def state(self) -> str:
        """One of `claim.STATES`."""
        return state_of(self.verdicts)


def figures(slug: str, outcome: Outcome) -> list[Figure]:
    """The checks as figures; a check that does not count has no `ok` of its own."""
    return [
        Figure(
            f"{slug}/{v.check.name}",
            v.mean,
            unit=v.check.bar,
            n=len(v.values),
            spread=v.spread,
            ok=v.ok if v.check.counts else None,
        )
        for v in outcome.verdicts
    ]


def write_results(method: Method, outcome: Outcome) -> None:
    """Writes `results.json`, whole or not at all."""
    names = next(iter(outcome.measured.values()))
    content = {
        "method": method.slug,
        "says": outcome.claim.says,
        "state": outcome.state,
        "budget": outcome.budget,
        "seeds": list(outcome.measured),
        "checks": [_row(verdict) for verdict in outcome.verdicts],
        "measured": {name: [_number(m[name]) for m in outcome.measured.values()] for name in names},
        "seconds": [round(seconds, 1) for seconds in outcome.seconds.values()],
    }
    _write(method.folder / RESULTS, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_summary(experiments: Path, methods: Sequence[Method]) -> Path:
    """Writes `RESULTS.md`: every method that has been run, its checks and its pictures; returns the path."""
    parts = ["# Results", "", "Written by `vdm claim`; each row is a check, fixed before it was measured.", ""]
    for method in methods:
        results = method.results
        if results is None:
            continue
        state, seeds = method.state, len(results["seeds"])
        parts += [f"## [{method.title}]({method.slug}/README.md): {state}", "", f"{results['says']}", ""]
        parts += [f"Budget {results['budget']}, {seeds} seed{'s' * (seeds > 1)}.", ""]
        parts += ["| check | mean | spread | bar | |", "| --- | --- | --- | --- | --- |"]
        for row in results["checks"]:
            ok = "yes" if row["ok"] else "**no**" if row["counts"] else "no (does not count)"
            parts.append(f"| {row['what']} | {_short(row['mean'])} | {_short(row['spread'])} | {row['bar']} | {ok} |")
        parts += ["", *(f"![{p.stem}]({method.slug}/{p.name})\n" for p in sorted(method.folder.glob("*.png")))]
    path = experiments / "RESULTS.md"
    _write(path, "\n".join(parts).rstrip() + "\n")
    return path


def _row(verdict: Verdict) -> dict[str, Any]:
    check = verdict.check
    return {
        "name": check.name,
        "what": check.what,
        "mean": _number(verdict.mean),
        "spread": _number(verdict.spread),
        "values": [_number(value) for value in verdict.values],
        "bar": check.bar,
        "counts": check.counts,
        "ok": verdict.ok,
    }


def _number(value: float) -> float | None:
    """Six digits; JSON has no word for what is not finite."""
    value = float(value)
    return float(f"{value:.6g}") if value - value == 0 else None


def _short(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text)
    os.replace(partial, path)
