"""The world of degraded clips: reproducible, each step does what it says, the twin is clean, and the oracle tells."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.worlds.degrade import oracle as degrade_oracle
from data_pipelines.worlds.degrade import world as degrade
from data_pipelines.worlds.degrade.world import STRENGTHS, DegradeConfig, Step
from data_pipelines.worlds.drawing.pictures import picture

CONFIG = DegradeConfig(height=32, width=40, frames=4)


def twin(frames=4):
    return np.stack([picture(np.random.default_rng(k), 32, 40, 8) for k in range(frames)])


def done(kind, strength, clean=None):
    clean = twin() if clean is None else clean
    return degrade.degrade(clean, Step(kind, strength), np.random.default_rng(0))


def test_clip_depends_on_its_index_alone():
    again = {i: degrade.clip(CONFIG, i, 3) for i in reversed(range(5))}
    for i in range(5):
        one = degrade.clip(CONFIG, i, 3)
        np.testing.assert_array_equal(one.video, again[i].video)
        np.testing.assert_array_equal(one.fields["clean"], again[i].fields["clean"])
        assert one.caption == again[i].caption == degrade.caption(one.attributes["steps"])


@pytest.mark.parametrize("size", [(16, 16, 1), (31, 17, 3), (128, 128, 2), (16, 20, 128)])
def test_every_size(size):
    config = DegradeConfig(height=size[0], width=size[1], frames=size[2], steps=(4, 4))
    example = degrade.clip(config, 0, 0)
    assert example.video.shape == example.fields["clean"].shape == (size[2], *size[:2], 3)
    assert {step["kind"] for step in example.attributes["steps"]} == set(STRENGTHS)


@pytest.mark.parametrize("kind", STRENGTHS)
def test_a_stronger_step_is_farther_from_the_twin(kind):
    ratios = [degrade_oracle.psnr(done(kind, strength), twin()) for strength in STRENGTHS[kind]]
    assert ratios[0] > ratios[1] + 2
    assert 8 < ratios[1] < ratios[0] < 45


def test_noise_has_its_standard_deviation():
    flat = np.full((4, 32, 40, 3), 128, np.uint8)
    assert done("noise", 10.0, flat).std() == pytest.approx(10, rel=0.02)


def test_blur_and_downscale_keep_the_mean():
    for kind, strength in (("blur", 2.0), ("downscale", 4.0)):
        assert done(kind, strength).mean() == pytest.approx(twin().mean(), abs=1.0)


def test_a_chain_takes_different_kinds_first():
    config = dataclasses.replace(CONFIG, steps=(1, 4))
    chains = [degrade.chain(config, np.random.default_rng(k)) for k in range(60)]
    assert {len(chain) for chain in chains} == {1, 2, 3, 4}
    assert all(len({step.kind for step in chain}) == len(chain) for chain in chains)
    twice = dataclasses.replace(CONFIG, steps=(3, 3), kinds=("blur",))
    assert [step.kind for step in degrade.chain(twice, np.random.default_rng(0))] == ["blur"] * 3


def test_the_oracle_is_right_and_says_no_to_other_pairs():
    figures = {f.name: f for f in degrade_oracle.check(CONFIG, 24, 1)}
    assert all(f.ok for f in figures.values()), {n: f.value for n, f in figures.items()}


def test_psnr_of_equal_clips_is_infinite():
    assert degrade_oracle.psnr(twin(), twin()) == float("inf")
    assert degrade_oracle.psnr(twin(), np.clip(twin().astype(int) + 5, 0, 255).astype(np.uint8)) == pytest.approx(
        34.15, abs=0.2
    )


def test_the_oracle_reads_single_steps_of_equal_shapes():
    with pytest.raises(ValueError, match="steps: "):
        degrade_oracle.check(dataclasses.replace(CONFIG, steps=(1, 2)))
    with pytest.raises(ValueError, match="video: expected uint8"):
        degrade_oracle.read(twin(3), twin(4))


@pytest.mark.parametrize(
    ("field", "value"),
    [("kinds", ("blurr",)), ("kinds", ()), ("steps", (0, 1)), ("steps", (2, 1)), ("objects", 9), ("width", 300)],
)
def test_wrong_settings_are_named(field, value):
    with pytest.raises(ValueError, match=f"^{field}: "):
        dataclasses.replace(CONFIG, **{field: value})


def test_a_step_that_is_none_is_named():
    with pytest.raises(ValueError, match="kind: unknown 'blurr'; did you mean 'blur'"):
        Step("blurr", 1.0)
