"""A computing verb starts itself again with huge pages, once, as the same process."""

import os
import subprocess
import sys

import pytest

from vdm_jax.cli import huge_pages

KEPT = ":".join(huge_pages.KEPT)
SCRIPT = """
import os, sys
from vdm_jax.cli import huge_pages
huge_pages.available = lambda: {available}
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], flush=True)
huge_pages.restart_with_huge_pages()
print("went on", flush=True)
"""


def started(tmp_path, available: bool, tunables: str | None) -> list[str]:
    """What a script that restarts itself prints."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(available=available))
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    env |= {"GLIBC_TUNABLES": tunables} if tunables else {}
    command = [sys.executable, str(script), "--steps", "a b"]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()


def test_restarts_once_with_the_same_process_and_arguments(tmp_path):
    first, second, end = started(tmp_path, True, "glibc.malloc.check=0")
    assert end == "went on"
    assert second == first.replace("check=0", f"check=0:{KEPT}:glibc.malloc.hugetlb=1")
    assert "['--steps', 'a b']" in second


@pytest.mark.parametrize(("available", "tunables"), [(False, None), (True, "glibc.malloc.hugetlb=0")])
def test_goes_on_where_there_are_none_or_the_user_has_chosen(tmp_path, available, tunables):
    lines = started(tmp_path, available, tunables)
    assert len(lines) == 2
    assert lines[1] == "went on"


def test_switched_off_again_other_tunables_stay():
    outer = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=2:glibc.malloc.check=1", "PATH": "x"}
    assert huge_pages.without_huge_pages(outer) == {"GLIBC_TUNABLES": "glibc.malloc.check=1", "PATH": "x"}
    assert huge_pages.with_huge_pages(outer)["GLIBC_TUNABLES"] == f"glibc.malloc.check=1:{KEPT}:glibc.malloc.hugetlb=1"
    assert huge_pages.without_huge_pages({"GLIBC_TUNABLES": f"{KEPT}:glibc.malloc.hugetlb=1"}) == {}
