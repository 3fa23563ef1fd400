"""Autoencoders on a mesh give what they give on one device, whether it cuts frames or pixels."""

import jax
import numpy as np
import pytest
from flax import nnx

from tests.attention.meshes import mesh_of
from tests.models.tiny_autoencoders import draw, make
from vdm_jax.sharding import LogicalRules, activation_sharding, logical_axes, param_shardings


@pytest.mark.parametrize(
    ("name", "clip"),
    [
        ("temporal", (2, 4, 4, 4, 3)),  # four frames: they are cut
        ("temporal", (2, 3, 4, 4, 3)),  # three: the pixels are
        ("cogvideox", (2, 9, 8, 8, 3)),  # both, from layer to layer
    ],
)
def test_clips_and_latents_are_those_of_one_device(name, clip):
    mesh, video = mesh_of(fsdp=2, context=2, tensor=2), draw(*clip)
    graph, state = nnx.split(make(name))
    params = nnx.to_pure_dict(state)

    def run(params, video):
        model = nnx.merge(graph, params)
        latents = model.encode(video).mean
        return latents, model.decode(latents)

    def on_mesh(params, video):
        with activation_sharding(mesh, LogicalRules()):
            return run(params, video)

    placed = jax.device_put(params, param_shardings(params, logical_axes(state), mesh, LogicalRules()))
    cut = jax.device_put(video, jax.NamedSharding(mesh, jax.P("fsdp")))
    for got, want in zip(jax.jit(on_mesh)(placed, cut), jax.jit(run)(params, video), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
