"""Memory for the arrays of a CPU run and for the clips of a loader: in huge pages, and not given back at once.

XLA's CPU allocates the temporary buffers of a program anew at each call.  In pages of 4 KiB that is 100,000 page
faults a training step of `dit_tiny`, in pages of 2 MiB 400, and the step takes 53 ms instead of 80.  A loader, too,
needs some new megabytes for each clip: unless glibc may keep freed blocks of up to 32 MiB (256 MiB of them), reading
3 MiB of pixels takes 3.8 ms instead of 0.9, the rest being page faults.  glibc (2.35 and later) reads its tunables only
when a process starts: so the process starts itself again.  It keeps its id, arguments and files, and whoever sets
`glibc.malloc.hugetlb` in the environment is left in peace.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLE, TUNABLE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
KEPT = ("glibc.malloc.mmap_threshold=33554432", "glibc.malloc.trim_threshold=268435456")
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def with_huge_pages(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment with glibc's huge pages switched on and freed blocks kept, other tunables as they are."""
    others = without_huge_pages(environ).get(VARIABLE)
    return {**environ, VARIABLE: ":".join([*([others] if others else []), *KEPT, f"{TUNABLE}=1"])}


def without_huge_pages(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment with both left to the system."""
    others = [t for t in environ.get(VARIABLE, "").split(":") if t and not t.startswith(TUNABLE) and t not in KEPT]
    kept = {name: value for name, value in environ.items() if name != VARIABLE}
    return kept | ({VARIABLE: ":".join(others)} if others else {})


def available() -> bool:
    """Whether this kernel gives huge pages to processes that ask."""
    try:
        return "[never]" not in SETTING.read_text()
    except OSError:
        return False


def restart_with_huge_pages() -> None:
    """Replaces this process by itself with huge pages; returns where they are set already or cannot be had.

    To be called before anything is opened or imported that costs time.
    """
    if TUNABLE in os.environ.get(VARIABLE, "") or not available():
        return
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], with_huge_pages(os.environ))
    except OSError as error:  # a run without them is slower, nothing else
        print(f"huge pages: not used, {error}", file=sys.stderr)
