"""What goes wrong is said when it happens: where a run is stopped from outside, the end of its output never comes."""

import time

import pytest

SLOW = 60.0  # seconds


class LiveReport:
    """Prints each failure with its text, and each test that takes long, at once, with the time since the start."""

    def __init__(self, config: pytest.Config):
        self._start, self._config = time.monotonic(), config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Of this process or of a worker's."""
        if report.failed:
            self._say(f"{report.when} failed: {report.nodeid}\n{report.longreprtext[-3000:]}")
        elif report.when == "call" and report.duration > SLOW:
            self._say(f"took {report.duration:.0f} s: {report.nodeid}")

    def _say(self, text: str) -> None:
        writer = self._config.get_terminal_writer()
        writer.line(f"\n[{time.monotonic() - self._start:.0f} s] {text}", flush=True)
