import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.embeddings import get_3d_sincos_pos_embed, get_timestep_embedding
from flax import nnx

from vdm_jax.nn.embeddings import LabelEmbedding, ScalarEmbedding, sincos_table, sincos_table_at, sinusoidal


def test_sinusoids_are_those_of_diffusers():
    t = np.array([0.0, 0.5, 17.0, 999.0], np.float32)
    want = get_timestep_embedding(torch.from_numpy(t), 64, flip_sin_to_cos=True, downscale_freq_shift=0).numpy()
    np.testing.assert_allclose(sinusoidal(jnp.asarray(t), 64), want, atol=2e-4)  # angles of 1000 in float32
    assert sinusoidal(jnp.ones((2, 3)), 8).shape == (2, 3, 8)


def test_minus_one_is_a_learned_vector_of_its_own():
    embed = ScalarEmbedding(6, rngs=nnx.Rngs(0), nullable=True)
    y = np.asarray(embed(jnp.array([-1.0, 0.0, 24.0, -1.0])))
    np.testing.assert_array_equal(y[0], embed.null[...])
    np.testing.assert_array_equal(y[0], y[3])
    assert len(np.unique(y, axis=0)) == 3
    plain = np.asarray(ScalarEmbedding(6, rngs=nnx.Rngs(0))(jnp.array([-1.0, 0.0])))
    assert np.abs(plain[0] - plain[1]).max() > 0

    graphdef, state = nnx.split(embed)
    grads = jax.grad(lambda s: nnx.merge(graphdef, s)(jnp.array([-1.0])).sum())(state)
    np.testing.assert_array_equal(grads["null"][...], np.ones(6))
    assert not np.asarray(grads["out"]["kernel"][...]).any()  # what is unconditional teaches the number nothing


def test_labels_are_rows_and_minus_one_the_last():
    embed = LabelEmbedding(4, 5, rngs=nnx.Rngs(0))
    table = np.asarray(embed.table[...])
    assert table.shape == (5, 5)
    np.testing.assert_array_equal(embed(jnp.array([0, 3, -1])), table[[0, 3, 4]])
    assert embed(jnp.array([1]), jnp.bfloat16).dtype == jnp.bfloat16


@pytest.mark.parametrize(("sizes", "dim"), [((7,), 8), ((3, 5), 16), ((2, 3, 4), 26)])
def test_every_point_of_a_grid_has_its_own_code(sizes, dim):
    table = sincos_table(sizes, dim)
    assert (table.shape, table.dtype) == ((*sizes, dim), np.float32)
    rows = table.reshape(-1, dim)
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=-1) + np.eye(len(rows))
    assert distances.min() > 0.1


def test_a_table_of_one_axis_is_the_sinusoids():
    table = sincos_table((5,), 8)
    cos_sin = np.asarray(sinusoidal(jnp.arange(5), 8))
    np.testing.assert_allclose(table, np.concatenate([cos_sin[:, 4:], cos_sin[:, :4]], axis=1), atol=1e-6)


def test_a_table_between_the_points_is_that_of_diffusers():
    """CogVideoX: time a quarter, then width, then height, all of them scaled."""
    theirs = get_3d_sincos_pos_embed(32, (3, 4), 2, spatial_interpolation_scale=1.875, temporal_interpolation_scale=2.0)
    table = sincos_table_at((np.arange(2) / 2.0, np.arange(3) / 1.875, np.arange(4) / 1.875), (8, 12, 12))
    np.testing.assert_allclose(table.swapaxes(1, 2).reshape(2, 12, 32), theirs.numpy(), atol=1e-6)
