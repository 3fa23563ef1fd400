import argparse
import errno
import shlex
import subprocess
import sys
import types

import pytest

from vdm_jax.cli import main as cli
from vdm_jax.errors import RunError


def verb_module(run, overrides=False):
    """A verb as `main` sees it."""

    def add_arguments(parser):
        parser.add_argument("--steps", type=int, default=1)
        if overrides:
            parser.set_defaults(overrides=())

    return types.SimpleNamespace(EXAMPLE="\nvdm train --steps 2\n", add_arguments=add_arguments, run=run)


@pytest.fixture
def verb(monkeypatch):
    """Puts a module of our own in the place of `vdm_jax.cli.train`."""

    def install(run, overrides=False):
        monkeypatch.delenv("VDM_DEBUG", raising=False)
        monkeypatch.setitem(sys.modules, "vdm_jax.cli.train", verb_module(run, overrides))

    return install


def raising(error):
    def run(args):
        raise error

    return run


def test_help_lists_the_verbs(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb, summary in cli.VERBS.items():
        assert verb in text
        assert summary in text
    assert cli.main([]) == 2
    assert cli.main(["--version"]) == 0


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help_with_examples_that_parse(verb, capsys):
    module, words = cli.module_of(verb), verb.split()
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    lines = [line.strip() for line in module.EXAMPLE.strip().splitlines()]
    assert [line for line in lines if line.startswith(f"vdm {verb} ")]
    for line in lines:
        assert line in shown
        if line.startswith(f"vdm {verb} "):
            given = shlex.split(line, comments=True)[1 + len(words) :]
            assert isinstance(cli.parse(verb, module, given), argparse.Namespace)


def test_what_stands_after_two_dashes_is_passed_on():
    module = cli.module_of("curate")
    args = cli.parse("curate", module, ["a", "b", "--out", "c", "--", "--flink_master=host:8081", "x"])
    assert (args.inputs, args.passed_on) == (["a", "b"], ("--flink_master=host:8081", "x"))
    assert cli.parse("curate", module, ["a", "--out", "c"]).passed_on == ()
    with pytest.raises(ValueError, match="the following arguments are required: --out"):
        cli.parse("curate", module, ["a", "--", "--out", "c"])


def test_unknown_verb_names_the_nearest(capsys):
    assert cli.main(["trian"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("vdm: verb: unknown 'trian'; did you mean 'train'?")
    assert shown.count("\n") == 1


def test_the_status_is_that_of_the_verb(verb):
    verb(lambda args: args.steps)
    assert cli.main(["train", "--steps", "7"]) == 7


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("steps: -1 is negative"), 2, "vdm: steps: -1 is negative"),
        (RunError("shard a: damaged"), 1, "vdm: shard a: damaged"),
        (OSError(errno.ENOSPC, "No space left on device", "x.png"), 1, "vdm: No space left on device: x.png"),
        (OSError(errno.EROFS, "Read-only file system", "run"), 1, "vdm: Read-only file system: run"),
        (PermissionError(errno.EACCES, "Permission denied", "run"), 1, "vdm: Permission denied: run"),
        (KeyboardInterrupt(), 130, "vdm: interrupted"),
        (KeyError("x"), 1, "vdm: unexpected KeyError at main.py:"),
    ],
)
def test_each_failure_is_one_line(verb, capsys, error, status, line):
    verb(raising(error))
    assert cli.main(["train"]) == status
    shown = capsys.readouterr().err
    assert shown.startswith(line)
    assert shown.count("\n") == 1


def test_debug_shows_where(verb, monkeypatch):
    verb(raising(RunError("damaged")))
    monkeypatch.setenv("VDM_DEBUG", "1")
    with pytest.raises(RunError):
        cli.main(["train"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--step", "3"], "unrecognized arguments: --step 3; did you mean --steps?"),
        (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["--config.a=1"], "takes no config"),
    ],
)
def test_wrong_options_are_usage_errors(verb, capsys, words, message):
    verb(lambda args: 0)
    assert cli.main(["train", *words]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_overrides_reach_the_verb_that_asks_for_them(verb):
    seen = []
    verb(lambda args: seen.append((args.overrides, args.steps)) or 0, overrides=True)
    assert cli.main(["train", "--config.train.steps=20", "--steps", "3", "--config.a.b", "x=y"]) == 0
    assert seen == [((("train.steps", "20"), ("a.b", "x=y")), 3)]
    assert cli.main(["train", "--config.train.steps"]) == 2


def test_a_reader_that_stops_reading_is_no_error():
    """`vdm ... | head -1`: no traceback, and no complaint of the interpreter at exit."""
    code = (
        "import sys; from vdm_jax.cli import main as m\n"
        "sys.exit(m.guarded(lambda: [print('x' * 100, flush=True) for _ in range(100_000)] and 0))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr.read() == b""
