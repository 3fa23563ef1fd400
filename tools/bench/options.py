"""What every section is told, and how it talks."""

import dataclasses
import os


@dataclasses.dataclass(frozen=True)
class Options:
    """Choices of a run of `tools/bench_step` or `tools/bench_scale`.

    Attributes:
      quick: tiny shapes and few repeats, to see that everything works; the figures mean nothing.
      huge_pages: whether glibc was told to back large allocations with huge pages.
      case: measure only what has this in its name; "" is everything.
    """

    quick: bool = False
    huge_pages: bool = False
    case: str = ""

    @property
    def threads(self) -> int:
        """CPUs this process may use; XLA takes as many."""
        return len(os.sched_getaffinity(0))

    @property
    def suffix(self) -> str:
        """Behind the names of figures measured with huge pages."""
        return "/huge_pages" if self.huge_pages else ""

    @property
    def environment(self) -> str:
        return "huge pages on" if self.huge_pages else "huge pages as the system has them"


def say(text: str) -> None:
    """Prints a line at once: sections run for minutes."""
    print(text, flush=True)
