import json

import ml_collections
import pytest

from vdm_jax.diffusion import (
    DDIM,
    EDM,
    PROCESSES,
    SOLVERS,
    VP,
    RectifiedFlow,
    process_from,
    process_to_dict,
    solver_from,
)
from vdm_jax.diffusion.time_sampling import LogitNormal, LogNormal
from vdm_jax.diffusion.weighting import EDMWeighting, MinSNR, Sigmoid, Uniform


@pytest.mark.parametrize(
    "process",
    [
        RectifiedFlow(shift=1 / 3, times=LogitNormal(mean=0.1, independent=0.2), weighting=Uniform(space="velocity")),
        VP(prediction="eps", schedule="cosine", weighting=MinSNR(gamma=5.1), times=LogNormal()),
        EDM(sigma_max=700.0, weighting=EDMWeighting(sigma_data=1.0)),
        RectifiedFlow(prediction="x0", weighting=Sigmoid(bias=-0.3)),
    ],
)
def test_json_brings_a_process_back_exactly(process):
    written = json.loads(json.dumps(process_to_dict(process)))
    assert process_from(written) == process
    assert type(process_from(written).times) is type(process.times)


@pytest.mark.parametrize("kind", PROCESSES)
def test_every_kind_builds_from_its_name_alone(kind):
    assert process_from({"kind": kind}) == PROCESSES[kind]()


def test_config_dicts_with_nested_kinds_are_read():
    section = ml_collections.ConfigDict(
        {"kind": "rectified_flow", "shift": 3, "times": {"kind": "log_normal", "mean": 0, "independent": 0.5}}
    )
    assert process_from(section) == RectifiedFlow(shift=3.0, times=LogNormal(mean=0.0, independent=0.5))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "rectified_flw"}, r"config.process.kind: .*did you mean 'rectified_flow'"),
        ({}, r"config.process.kind"),
        ({"kind": "vp", "shift": 3.0}, r"config.process.shift: unknown 'shift'"),
        ({"kind": "vp", "times": {"kind": "unifrom"}}, r"config.process.times.kind: .*did you mean 'uniform'"),
        ({"kind": "vp", "weighting": {"kind": "min_snr", "gama": 5}}, r"config.process.weighting.gama.*'gamma'"),
        ({"kind": "vp", "times": {"kind": "uniform", "independent": 2.0}}, r"config.process.times.independent: 2.0"),
        ({"kind": "rectified_flow", "shift": -1.0}, r"config.process.shift: -1.0"),
        ("vp", r"config.process: expected a section"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(section, message):
    with pytest.raises(ValueError, match=message):
        process_from(section)


def test_solvers_build_by_kind():
    assert solver_from({"kind": "ddim", "eta": 1.0}) == DDIM(eta=1.0)
    assert {type(solver_from({"kind": kind})) for kind in SOLVERS} == set(SOLVERS.values())
    with pytest.raises(ValueError, match="did you mean 'unipc'"):
        solver_from({"kind": "unipcc"})
    with pytest.raises(ValueError, match=r"config.solver.eta: 2.0"):
        solver_from({"kind": "ddim", "eta": 2.0})
