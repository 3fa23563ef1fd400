import io

from vdm_jax.cli.counter import Counter, counter_line


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_line_tells_how_far_how_fast_and_how_long():
    assert counter_line("curate", "files", 5, 20, 10.0) == "curate  5/20 |#####               |  0.5 files/s  eta 30s"
    assert counter_line("curate", "files", 20, 20, 10.0).endswith("2 files/s  in 10s")
    assert counter_line("curate", "files", 0, 0, 0.0).endswith("in 0s")
    assert "eta ?" in counter_line("curate", "files", 0, 3, 1.0)


def test_terminal_is_rewritten_and_a_log_gets_one_line():
    for stream, lines in ((Terminal(), 4), (io.StringIO(), 1)):
        times = iter(range(10))
        counter = Counter("x", "things", stream, clock=lambda times=times: next(times))
        for done in range(1, 5):
            counter(done, 4, f"file {done}")
        shown = stream.getvalue()
        assert shown.count("things/s") == lines
        assert shown.endswith("\n")
        assert shown.count("\n") == 1
        assert ("file 3" in shown) == (lines > 1)


def test_terminal_is_not_flooded():
    stream = Terminal()
    counter = Counter("x", "things", stream, clock=lambda: 0.0)
    for done in range(1, 1001):
        counter(done, 1000)
    assert stream.getvalue().count("things/s") == 2  # the first and the last
