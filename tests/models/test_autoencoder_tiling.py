"""Pictures in tiles against pictures at once, and autoencoders on eight fake devices against one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.meshes import mesh_of
from tests.models.tiny_autoencoders import draw, make
from vdm_jax.models.autoencoders.tiling import Tiling, decode_tiled, encode_tiled
from vdm_jax.sharding import LogicalRules, activation_sharding

LOCAL, RANDOM = 33.0, 22.0  # dB, as the module says


def psnr(got, want) -> float:
    """Peak signal over noise, the peak being the range of `want`."""
    return float(10 * np.log10(np.ptp(want) ** 2 / np.mean((np.asarray(got) - want) ** 2)))


def smooth_clip(frames: int, side: int) -> jax.Array:
    """Waves of several lengths that move."""
    t, y, x = jnp.mgrid[0:frames, 0:side, 0:side] / side
    return jnp.stack([jnp.sin(9 * x + 3 * t + 5 * y), jnp.cos(13 * x * y + t), jnp.tanh(5 * jnp.sin(20 * x))], -1)[None]


@pytest.mark.parametrize(("name", "frames", "attends"), [("kl", 1, True), ("wan", 3, True), ("wan", 3, False)])
def test_tiles_are_the_whole_within_the_stated_bound(name, frames, attends):
    network, tiling = make(name), Tiling(size=16, overlap=8)
    for side in () if attends else (network.encoder, network.decoder):
        side.middle.attention.attention.out.kernel[...] *= 0
    clip = smooth_clip(frames, 24 * network.config.grid.side)
    latents = np.asarray(jax.jit(lambda x: network.encode(x).mean)(clip))
    tiled = jax.jit(lambda x: encode_tiled(network, x, tiling).mean)(clip)
    whole = np.asarray(jax.jit(network.decode)(latents))
    decoded = jax.jit(lambda z: decode_tiled(network, z, tiling))(latents)
    assert min(psnr(tiled, latents), psnr(decoded, whole)) > (RANDOM if attends else LOCAL)


def test_a_picture_of_one_tile_is_the_whole():
    network = make("kl")
    latents = draw(1, 1, 6, 8, 2)
    tiled = jax.jit(lambda z: decode_tiled(network, z, Tiling(size=8, overlap=4)))(latents)
    np.testing.assert_allclose(tiled, jax.jit(network.decode)(latents), rtol=1e-5, atol=1e-5)


def test_what_is_near_an_inner_edge_does_not_count():
    ramp = Tiling(size=8, overlap=4).ramp(points=16, unit=2)
    assert ramp[:2].max() == 0.0
    assert ramp[6:].min() == 1.0
    np.testing.assert_allclose(ramp[:8] + ramp[:8][::-1], 1.0)  # two neighbours make one


def test_tiles_cover_a_side_and_end_with_it():
    assert Tiling(16, 4).starts(24).tolist() == [0, 8]
    assert Tiling(16, 4).starts(40).tolist() == [0, 12, 24]
    assert Tiling(16, 4).starts(10).tolist() == [0]
    with pytest.raises(ValueError, match="overlap: 16 must be 1 to 15, below size=16"):
        Tiling(16, 16)


@pytest.mark.parametrize(
    ("name", "latent_frames", "axes"),
    [("kl", 8, {"context": 8}), ("wan", 3, {"data": 2, "context": 4})],  # frames divide; they do not, but height does
)
def test_eight_devices_compute_what_one_computes(name, latent_frames, axes):
    network = make(name)
    grid = network.config.grid
    clip = draw(2, grid.clip_frames(latent_frames), 8 * grid.side, 2 * grid.side, 3)

    def both(clip):
        latents = network.encode(clip).mean
        return latents, network.decode(latents)

    def on_mesh(clip):
        with activation_sharding(mesh, LogicalRules()):
            return both(clip)

    mesh = mesh_of(**axes)
    placed = jax.device_put(clip, jax.sharding.NamedSharding(mesh, jax.P()))
    compiled = jax.jit(on_mesh).lower(placed).compile()
    for got, want in zip(compiled(placed), jax.jit(both)(clip), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert "collective-permute" in compiled.as_text() or "all-" in compiled.as_text()
