import itertools
import math

import pytest

from tests.planning.small_run import small_config
from vdm_jax.planning import search as searching
from vdm_jax.planning.compile import trace_step
from vdm_jax.planning.liveness import peak_live
from vdm_jax.planning.plan import make_plan
from vdm_jax.planning.search import Candidate, meshes, rescaled, search
from vdm_jax.planning.targets import parse_target
from vdm_jax.sharding import MeshConfig

GPUS = parse_target("h100:8")


def sizes(mesh):
    return mesh.data, mesh.fsdp, mesh.tensor, mesh.context


def test_meshes_divide_batch_heads_and_slices():
    config = small_config()
    found = [sizes(mesh) for mesh in meshes(config, GPUS, 4)]
    assert (4, 1, 2, 1) in found
    assert all(math.prod(mesh) == 8 and 4 % (mesh[0] * mesh[1]) == 0 and 4 % mesh[2] == 0 for mesh in found)
    assert len(set(found)) == len(found)
    two = parse_target("v6e:2x2", 2)
    assert {mesh.data % 2 for mesh in meshes(config, two, 8)} == {0}


def test_a_rescaled_trace_is_the_trace_of_the_other_run():
    config, other = small_config(model={"depth": 9}), Candidate(MeshConfig(data=1, fsdp=8), "full", "auto", 16)
    wanted = other.apply(small_config(model={"depth": 9}))
    there, made = trace_step(wanted, GPUS), rescaled(trace_step(config, GPUS), wanted)
    assert made.program.flops == pytest.approx(there.program.flops, rel=0.01)
    assert made.memory == there.memory
    assert made.run.mesh == there.run.mesh
    peaks = [peak_live(t.stages.jaxpr, t.run.plan, t.batch_growth).device for t in (made, there)]
    assert peaks[0] == pytest.approx(peaks[1], rel=0.15)


def test_the_ranking_is_by_time_and_what_does_not_fit_is_last(monkeypatch):
    monkeypatch.setattr(searching, "BATCHES", (1, 2))
    monkeypatch.setattr(searching, "MOST_CONTEXT", 2)
    monkeypatch.setattr(searching, "REMAT_POLICIES", ("none", "full"))
    calculated, compiled = search(small_config(), GPUS, compile_best=2)
    assert compiled == []  # a GPU cannot be compiled for here
    assert {r.candidate.remat for r in calculated} == {"none", "full"}
    assert {r.candidate.batch_size for r in calculated} == {8, 16}
    times = [r.seconds_per_clip for r in calculated if r.plan.fits]
    assert times == sorted(times)
    assert not any(a.plan.fits is False and b.plan.fits for a, b in itertools.pairwise(calculated))
    best = make_plan(calculated[0].candidate.apply(small_config()), GPUS)
    assert best.times.step == pytest.approx(calculated[0].plan.times.step, rel=0.05)


def test_overrides_can_be_typed():
    typed = Candidate(MeshConfig(2, 4), "full", "auto", 8).overrides
    assert "--config.mesh.fsdp=4" in typed
    assert "--config.model.remat=full" in typed


def test_nothing_to_search_says_so(monkeypatch):
    monkeypatch.setattr(searching, "MOST_CONTEXT", 1)
    with pytest.raises(ValueError, match="search: no mesh of 7 devices divides a batch of 8 x 1 or 2 or 4 and 4 heads"):
        search(small_config(), parse_target("h100:7"), 0)
