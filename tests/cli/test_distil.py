"""`vdm train` with an objective of kind `consistency`: runs that distil another, by pairs first and then as a whole."""

import jax
import numpy as np
import pytest

from tests.cli.micro_run import SILENT, refused, train
from vdm_jax.adapters.lora import beside, merged
from vdm_jax.training.checkpoint import restore_weights

QUIET = '"eval_every": None'  # compiling the evaluation would take a third of the time
OBJECTIVE = {"kind": "consistency", "steps": 8, "decay": 0.5, "guides": ()}


def write(folder, text, name, base, objective, **more):
    """A config of one step that distils `base`."""
    section = "".join(f"{key!r}: {value!r}, " for key, value in more.items())
    section += f'"init": {str(base)!r}, "objective": {objective!r},'
    (folder / name).write_text(text.replace('"process"', f'{section} "process"', 1))


@pytest.fixture(scope="module")
def folder(workshop, silent_run, tmp_path_factory):
    """Two configs and their runs: pairs that distil the trained run, and a student that begins with them."""
    folder = tmp_path_factory.mktemp("distil")
    text = (workshop / SILENT).read_text().replace('"guidance": 2.0', '"guidance": 1.0, "solver": "lcm"')
    text = (
        text.replace('"eval_every": 6', QUIET)
        .replace('"steps": 6', '"steps": 1', 1)
        .replace('"warmup": 2', '"warmup": 0')
    )
    assert QUIET in text
    write(folder, text, "pairs.py", silent_run, OBJECTIVE, lora={"targets": ("attention",), "rank": 2, "alpha": 4.0})
    assert train(folder, "pairs.py", "pairs") == 0
    text = text.replace('"learning_rate": 1e-3', '"learning_rate": 1e-9')
    write(folder, text, "whole.py", silent_run, OBJECTIVE | {"pairs": str(folder / "pairs")})
    assert train(folder, "whole.py", "whole", "--config.train.trains=('mlp',)") == 0
    return folder


def weights(run, which="params"):
    return restore_weights(run / "checkpoints", which).state


def apart(a, b):
    """The largest difference of each leaf."""
    return np.array([float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in zip(*map(jax.tree.leaves, (a, b)))])


def test_pairs_learn_the_target_follows_and_the_teacher_stays(folder, silent_run):
    base, found = weights(silent_run, "ema:0.9")["backbone"], weights(folder / "pairs")
    assert set(found) == {"backbone", "teacher", "target"}
    assert not apart(found["teacher"], base).any()
    assert not apart(merged(found["backbone"], 0.0), base).any()
    student, target = (found[name] for name in ("backbone", "target"))
    b = [np.asarray(each["units"]["block"]["attention"]["out"]["lora"]["b"]["kernel"]) for each in (student, target)]
    assert np.abs(b[0]).max() > 0.0
    np.testing.assert_allclose(b[1], b[0] / 2, rtol=1e-5)  # both began at zero; decay 0.5


def test_a_student_begins_with_the_pairs_of_another_run_and_its_target_without(folder, silent_run):
    base, found = weights(silent_run, "ema:0.9")["backbone"], weights(folder / "whole")
    begun = merged(beside(base, weights(folder / "pairs", "ema:0.9")["backbone"]), 2.0)
    assert apart(begun, base).max() > 1e-5
    assert apart(found["backbone"], begun).max() < 1e-7  # a step of next to nothing
    half = jax.tree.map(lambda x, y: (np.asarray(x) + np.asarray(y)) / 2, base, begun)
    assert apart(found["target"], half).max() < 1e-7
    assert not apart(found["teacher"], base).any()


def test_what_cannot_be_distilled_or_sampled_is_refused(folder, workshop, capsys):
    def line(*more, config="whole.py"):
        words = ["train", "--config", folder / config, "--workdir", folder / "other", *more]
        return refused(capsys, words)

    assert "config.sample.steps: 9 is more than the 8" in line("--config.sample.steps=9")
    assert "config.sample.solver: 'ddim' does not sample" in line("--config.sample.solver=ddim")
    assert "config.objective.teacher: is the weights" in line("--config.init=None")
    assert "config.process.prediction: 'velocity', but the weights of" in line("--config.process.prediction=velocity")
    assert "config.objective.pairs: are for weights that" in line(
        "--config.init=None", "--config.objective.teacher=False"
    )
    assert "silent trained no low-rank pairs" in line(f"--config.objective.pairs={workshop / 'silent'}")
    pairs = f"--config.objective.pairs={folder / 'pairs'}"
    assert "config.objective.pairs: are merged, and config.lora adds new ones" in line(pairs, config="pairs.py")
