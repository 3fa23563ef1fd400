"""What `auto` came to mean while a program was traced, for whoever has to say so (`vdm plan`).

with choices() as lines:
    step.trace(...)
# ["kernel splash: the fused kernel of a tpu honours ...", "partition ulysses: 40 heads divide by context 8"]
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

_listening: contextvars.ContextVar[tuple[list[str], str | None] | None] = contextvars.ContextVar("chosen", default=None)


@contextlib.contextmanager
def choices(platform: str | None = None) -> Iterator[list[str]]:
    """Collects one line for each different choice that is traced in the body.

    Args:
      platform: say what a machine of this platform would choose, where the trace stands in for it.
    """
    lines: list[str] = []
    token = _listening.set((lines, platform))
    try:
        yield lines
    finally:
        _listening.reset(token)


def note(what: str, choose: Callable[[str | None], tuple[str, str]]) -> None:
    """Tells the listener, if there is one, of a choice.

    Args:
      what: `kernel` or `partition`.
      choose: from a platform (None for the traced one) to the name and one line of why.
    """
    listener = _listening.get()
    if listener is None:
        return
    lines, platform = listener
    name, why = choose(platform)
    line = f"{what} {name}: {why}"
    if line not in lines:
        lines.append(line)
