"""`vdm train` with an objective of kind `consistency`: a run that distils another."""

import jax
import numpy as np
import pytest

from tests.cli.micro_run import CAPTIONED, refused, train
from vdm_jax.training.checkpoint import restore_weights


@pytest.fixture(scope="module")
def folder(workshop, captioned_run, tmp_path_factory):
    """A config that distils the trained run, and a run of three steps by it."""
    folder = tmp_path_factory.mktemp("distil")
    section = f'"init": {str(captioned_run)!r}, "objective": {{"kind": "consistency", "steps": 8, "decay": 0.5}},'
    text = (workshop / CAPTIONED).read_text().replace('"process"', f'{section} "process"', 1)
    text = text.replace('"guidance": 2.0', '"guidance": 1.0, "solver": "lcm"').replace('"steps": 6', '"steps": 3', 1)
    (folder / "distil.py").write_text(text.replace('"eval_every": 6', '"eval_every": 3'))
    assert train(folder, "distil.py", "student") == 0
    return folder


def test_the_teacher_stays_the_student_learns_and_the_target_follows(folder, captioned_run):
    base = restore_weights(captioned_run / "checkpoints", "ema:0.9").state["backbone"]
    found = restore_weights(folder / "student/checkpoints").state
    assert set(found) == {"backbone", "teacher", "target", "text"}
    for theirs, mine in zip(jax.tree.leaves(base), jax.tree.leaves(found["teacher"]), strict=True):
        np.testing.assert_array_equal(theirs, mine)

    def distance(a, b):
        return sum(float(np.abs(np.asarray(x) - np.asarray(y)).sum()) for x, y in zip(*map(jax.tree.leaves, (a, b))))

    student, target = found["backbone"], found["target"]
    assert 0.0 < distance(target, base) < distance(student, base)
    assert 0.0 < distance(target, student) < distance(student, base)
    text = restore_weights(captioned_run / "checkpoints", "ema:0.9").state["text"]
    assert distance(found["text"], text) == 0.0


def test_what_cannot_be_distilled_or_sampled_is_refused(folder, capsys):
    def line(*more):
        words = ["train", "--config", folder / "distil.py", "--workdir", folder / "other", *more]
        return refused(capsys, words)

    assert "config.sample.steps: 9 is more than the 8" in line("--config.sample.steps=9")
    assert "config.sample.solver: 'ddim' does not sample" in line("--config.sample.solver=ddim")
    assert "config.objective.teacher: is the weights" in line("--config.init=None")
    assert "config.process.prediction: 'velocity', but the weights of" in line("--config.process.prediction=velocity")
