"""The progress line: right figures, one line on a terminal, plain lines elsewhere."""

import io

import pytest

from vdm_jax.training.progress import Pace, Progress, duration, line


class Clock:
    """Time that passes when told to."""

    def __init__(self):
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_pace_keeps_callbacks_out_of_the_rate():
    clock = Clock()
    pace = Pace(clock)
    pace.steps, pace.data_seconds, pace.idle_seconds, pace.aside_seconds = 20, 2.0, 1.0, 90.0
    clock.seconds += 100.0
    assert pace.figures() == pytest.approx({"steps_per_second": 2.0, "data_wait": 0.2, "device_idle": 0.1})


def test_a_lap_counts_from_its_beginning():
    clock = Clock()
    pace = Pace(clock)
    pace.steps = 10
    clock.seconds += 10.0
    pace.lap()
    pace.steps += 30
    clock.seconds += 10.0
    assert pace.figures(lap=True)["steps_per_second"] == pytest.approx(3.0)
    assert pace.figures()["steps_per_second"] == pytest.approx(2.0)
    pace.reset()
    clock.seconds += 1.0
    assert pace.figures()["steps_per_second"] == 0.0


def test_the_line_shows_what_is_known():
    text = line("train", 500, 2000, 2.5, 0.12345, 0.412, 0.003)
    assert text == "train  500/2000 |##        |  2.5 steps/s  eta 10:00  loss 0.1235  mfu 41.2%  data wait 0.3%"
    assert "mfu" not in line("train", 500, 2000, 2.5, 0.1, None, 0.003)
    assert "4 s/step" in line("train", 500, 2000, 0.25, 0.1, None, None)
    assert "eta ?" in line("train", 0, 2000, 0.0, 0.1, None, None)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.4, "59s"), (185, "3:05"), (3723, "1:02:03"), (183845, "2d 3:04:05")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_terminal_gets_one_line_rewritten():
    clock, stream = Clock(), Terminal()
    progress = Progress(10, stream=stream, clock=clock)
    for step in range(1, 11):
        progress.update(step, 1.0, 0.5)
        clock.seconds += 1.0
    progress.close()
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.count("\r") == 10
    assert text.endswith("\n")


def test_a_log_file_gets_few_plain_lines():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(100, stream=stream, clock=clock)
    for step in range(1, 101):
        progress.update(step, 1.0, 0.5)
        clock.seconds += 1.0
    progress.close()
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue()
    assert [int(text.split()[1].split("/")[0]) for text in lines] == [1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 100]


def test_a_word_in_between_does_not_tear_the_line():
    stream = Terminal()
    progress = Progress(10, stream=stream, every_seconds=0.0)
    progress.update(1, 1.0, 0.5)
    progress.say("saved")
    progress.update(2, 1.0, 0.5)
    shown = stream.getvalue().split("\r\x1b[K")
    assert shown[2] == "saved\n"
