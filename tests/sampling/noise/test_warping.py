import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.sampling.noise import draw
from vdm_jax.sampling.noise.warped import Precomputed, Warped
from vdm_jax.sampling.noise.warping import degrade, reduce_space, reduce_time, start, step, warp_noise

SIZE, CHANNELS = 24, 4
KEY = jax.random.key(0)
STEP = jax.jit(step, static_argnums=3)
MAKE = jax.jit(draw, static_argnums=0)
STATE = start(KEY, SIZE, SIZE, CHANNELS)


def flow_of(dx, dy):
    return jnp.stack(jnp.broadcast_arrays(jnp.float32(dx), jnp.float32(dy), jnp.zeros((SIZE, SIZE))), -1)[..., :2]


def zoom(share):
    """Everything moves away from the middle, or towards it."""
    y, x = (np.indices((SIZE, SIZE)) + 0.5 - SIZE / 2) * share
    return flow_of(x, y)


def many(flow, count=3000):
    """The next frame of many draws `[S, H, W, C]`, and the first one that they all come from or draw."""

    @jax.jit
    def run(keys):
        def one(key):
            first, second = jax.random.split(key)
            state = start(first, SIZE, SIZE, 1)
            return state.noise[..., 0], step(state, flow, second).noise[..., 0]

        return jax.vmap(one)(keys)

    return [np.asarray(x).reshape(count, -1) for x in run(jax.random.split(jax.random.key(7), count))]


def test_without_motion_nothing_changes():
    after = STEP(STATE, flow_of(0, 0), KEY)
    np.testing.assert_allclose(after.noise, STATE.noise, rtol=1e-5)
    np.testing.assert_allclose(after.density, 1, rtol=1e-4)


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (-2, 5), (1.4, -0.6)])
def test_whole_pixels_shift_the_noise(dx, dy):
    i, j = round(dy), round(dx)
    after = STEP(STATE, flow_of(dx, dy), KEY)
    moved = np.roll(np.asarray(STATE.noise), (i, j), (0, 1))
    stays = np.ones((SIZE, SIZE))
    rows, columns = np.indices(stays.shape)
    inside = (rows - i >= 0) & (rows - i < SIZE) & (columns - j >= 0) & (columns - j < SIZE)
    np.testing.assert_allclose(np.asarray(after.noise)[inside], moved[inside], rtol=1e-5)
    new = np.asarray(after.noise)[~inside]
    assert not np.isclose(new, moved[~inside], rtol=1e-3).any()
    assert abs(new.std() - 1) < 0.15


@pytest.mark.parametrize("share", [0.5, -0.4])
def test_members_of_a_source_add_up_to_it(share):
    """Rebuilt from the flow alone: which pixels have what came of a source, if each got one source only."""
    flow = np.asarray(zoom(share)).round().astype(int)
    rows, columns = np.indices((SIZE, SIZE))
    i, j = rows + flow[..., 1], columns + flow[..., 0]
    inside = (i >= 0) & (i < SIZE) & (j >= 0) & (j < SIZE)
    landed = np.zeros((SIZE, SIZE), int)
    np.add.at(landed, (i[inside], j[inside]), 1)
    back_i, back_j = rows - flow[..., 1], columns - flow[..., 0]
    copies = (landed == 0) & (back_i >= 0) & (back_i < SIZE) & (back_j >= 0) & (back_j < SIZE)
    after = np.asarray(STEP(STATE, zoom(share), KEY).noise)
    checked = largest = 0
    for y, x in np.argwhere(inside):
        if landed[i[y, x], j[y, x]] != 1:
            continue  # it shares its pixel with others
        own = [(i[y, x], j[y, x]), *np.argwhere(copies & (back_i == y) & (back_j == x))]
        total = sum(after[tuple(place)] for place in own)
        np.testing.assert_allclose(total, np.sqrt(len(own)) * STATE.noise[y, x], atol=2e-5)
        checked, largest = checked + 1, max(largest, len(own))
    assert checked > 10
    assert largest >= (2 if share > 0 else 1)


@pytest.mark.parametrize("share", [0.5, -0.4])
def test_every_pixel_has_unit_variance_and_none_goes_with_another(share):
    _, after = many(zoom(share))
    assert np.abs(after.var(0) - 1).max() < 0.15  # 5.8 standard errors of 3,000 draws
    covariance = np.cov(after.T)
    covariance[np.diag_indices_from(covariance)] = 0
    assert np.abs(covariance).max() < 0.11  # 6 standard errors


def test_noise_stays_white_over_many_frames_and_density_bounded():
    flow = jnp.stack([zoom(0.06)] * 12 + [zoom(-0.06)] * 12)
    noise = np.asarray(jax.jit(warp_noise, static_argnums=(2, 3))(KEY, flow, (SIZE, SIZE), 64))
    last = noise[[12, 24]]
    assert np.abs(last.var((1, 2, 3)) - 1).max() < 0.03
    for axis in (1, 2):
        near = np.moveaxis(last, axis, 0)
        assert np.abs((near[1:] * near[:-1]).mean()) < 0.02


def test_what_goes_into_one_pixel_is_weighed_by_its_density():
    state = STATE._replace(density=STATE.density.at[4, 4].set(3.0))
    flow = flow_of(0, 0).at[4, 5, 0].set(-1.0)
    after = STEP(state, flow, KEY).noise
    np.testing.assert_allclose(after[4, 4], (3 * STATE.noise[4, 4] + STATE.noise[4, 5]) / np.sqrt(10), rtol=1e-4)


@pytest.mark.parametrize(("kind", "density"), [("one", 1.0), ("shared", 1 / SIZE)])
def test_what_comes_into_view_has_a_density_of_its_own(kind, density):
    after = STEP(STATE, flow_of(1, 0), KEY, kind).density
    np.testing.assert_allclose(after[:, 0] / after[:, 5], density, rtol=2e-3)


def test_flow_that_is_not_finite_makes_no_noise():
    assert bool(jnp.isnan(STEP(STATE, flow_of(0, 0).at[3, 3, 1].set(jnp.nan), KEY).noise).all())


@pytest.mark.parametrize("space", ["weighted", "plain"])
def test_coarser_noise_is_white_too(space):
    density = jnp.asarray(np.random.default_rng(0).uniform(0.2, 3, (48, 48)), jnp.float32)
    noise = jax.random.normal(KEY, (48, 48, 256))
    coarse = np.asarray(reduce_space(noise, density, 12, 6, space))
    assert coarse.shape == (12, 6, 256)
    assert abs(coarse.var() - 1) < 0.03
    np.testing.assert_array_equal(reduce_space(noise, density, 48, 48, space), noise)
    cell, weight = np.asarray(noise)[:4, :8, 0], np.asarray(density)[:4, :8]
    weight = weight if space == "weighted" else np.ones_like(weight)
    wanted = np.sqrt(32) * (cell * weight).mean() / np.sqrt((weight**2).mean())
    np.testing.assert_allclose(coarse[0, 0, 0], wanted, rtol=1e-4)


def test_frames_of_latents():
    noise = jax.random.normal(KEY, (9, 16, 16, 8))
    np.testing.assert_array_equal(reduce_time(noise, 4), noise[::4])
    blend = reduce_time(noise, 4, "blend")
    np.testing.assert_allclose(blend[2], noise[5:].mean(0), atol=1e-6)
    np.testing.assert_array_equal(blend[0], noise[0])
    np.testing.assert_allclose(reduce_time(noise, 4, "blend_norm")[1:].std((1, 2, 3)), 1, rtol=1e-5)
    np.testing.assert_array_equal(reduce_time(noise, 1, "blend"), noise)


def test_degraded_noise_is_between_the_two():
    warped, new = jax.random.normal(KEY, (2, 40, 40, 16))
    np.testing.assert_array_equal(degrade(warped, new, 0.0), warped)
    np.testing.assert_array_equal(degrade(warped, new, 1.0), new)
    for share in (0.3, 0.5):
        assert abs(float(degrade(warped, new, share).std()) - 1) < 0.02
    matte = jnp.zeros((40, 40, 1)).at[:20].set(1.0)
    mixed = degrade(warped, new, 1 - matte)
    np.testing.assert_array_equal(mixed[:20], warped[:20])
    np.testing.assert_array_equal(mixed[20:], new[20:])


def test_the_source_follows_the_flow_of_its_clip():
    still = jnp.zeros((2, 2, 12, 12, 2))  # of a grid half as large
    flow = still.at[0].set(2.0)
    keys, like = jax.random.split(KEY), jnp.zeros((2, 3, SIZE, SIZE, 3))
    strict, free = (MAKE(Warped(scale=1, degradation=g), keys, like, {"flow": flow}) for g in (0.0, 1.0))
    np.testing.assert_allclose(strict[0, 1, 4:, 4:], strict[0, 0, :-4, :-4], rtol=1e-5)
    np.testing.assert_allclose(strict[1, 2], strict[1, 0], rtol=1e-5)
    warp_key, _ = jax.random.split(keys[0])
    warped = jax.jit(warp_noise, static_argnums=(2, 3))(warp_key, flow[0], (SIZE, SIZE), 3)
    np.testing.assert_allclose(strict[0], warped, atol=1e-6)
    np.testing.assert_array_equal(free, MAKE(Warped(scale=1, degradation=1.0), keys, like, {"flow": still}))
    assert abs(float((free[1, 1] * free[1, 0]).mean())) < 0.1


def test_a_clip_in_training_follows_as_much_as_its_own_draw_says():
    noise = jnp.repeat(jax.random.normal(KEY, (8, 1, 16, 16, 4)), 2, axis=1)
    degraded = MAKE(Precomputed(), jax.random.split(KEY, 8), noise, {"noise": noise})
    follows = np.asarray((degraded[:, 1] * degraded[:, 0]).mean((1, 2, 3)))
    assert follows.min() < 0.4
    assert follows.max() > 0.9
    assert abs(float(degraded.std()) - 1) < 0.05


def test_latents_follow_some_frames_of_the_flow():
    flow = jnp.ones((1, 8, 6, 6, 2))
    noise = MAKE(Warped(scale=2, stride=4, degradation=0.0), KEY[None], jnp.zeros((1, 3, 6, 6, 2)), {"flow": flow})
    assert noise.shape == (1, 3, 6, 6, 2)
    np.testing.assert_allclose(noise[0, 1, 4:, 4:], noise[0, 0, :2, :2], rtol=1e-4)


def test_noise_made_beforehand_is_degraded_the_same_way():
    noise = jax.random.normal(KEY, (2, 3, 4, 4, 1))
    given = {"noise": noise}
    np.testing.assert_array_equal(MAKE(Precomputed(0.0), jax.random.split(KEY), noise, given), noise)
    assert not np.isclose(MAKE(Precomputed(), jax.random.split(KEY), noise, given), noise).all()
    with pytest.raises(ValueError, match=r"noise: noise is \(3, 4, 4, 1\), the clip \(3, 5, 4, 1\)"):
        draw(Precomputed(), jax.random.split(KEY), jnp.zeros((2, 3, 5, 4, 1)), given)


FLOW = jnp.zeros((2, 8, 8, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Warped(degradation=1.2), "degradation: 1.2 must lie between 0"),
        (lambda: Warped(scale=0), "scale: 0 must be 1 or more"),
        (lambda: Warped(time="blend_nrom"), "time: unknown 'blend_nrom'; did you mean 'blend_norm'"),
        (lambda: Warped(space="mean"), "space: unknown 'mean'"),
        (lambda: Warped(new_density="zero"), "new_density: unknown 'zero'"),
        (lambda: Precomputed(degradation=-0.1), "degradation: -0.1"),
        (lambda: Warped()(KEY, jnp.zeros((2, 8, 8, 3)), {"flow": FLOW}), "2 fields of flow for 2 frames.* must be 1"),
        (lambda: Warped()(KEY, jnp.zeros((3, 8, 12, 3)), {"flow": FLOW}), "8x8 has another aspect .* 8x12; expected"),
        (lambda: Warped()(KEY, {"a": jnp.zeros((3, 8))}, {"flow": FLOW}), r"is for clips \[T, H, W, C\]"),
        (lambda: Warped()(KEY, jnp.zeros((3, 8, 8, 3)), {"flow": FLOW[..., :1]}), r"not \[T - 1, H, W, 2\], \(dx"),
        (lambda: warp_noise(KEY, FLOW, (8, 8), 0), "channels: 0 .* must be 1 or more"),
        (lambda: reduce_space(jnp.zeros((8, 8, 1)), jnp.ones((8, 8)), 3, 4), "8x8 cannot be reduced to 3x4"),
        (lambda: reduce_space(jnp.zeros((8, 8, 1)), jnp.ones((8, 8)), 16, 16), "8x8 cannot be reduced to 16x16"),
        (lambda: reduce_space(jnp.zeros((8, 8, 1)), jnp.ones((8, 8)), 4, 4, "max"), "space: unknown 'max'"),
        (lambda: reduce_time(jnp.zeros((8, 1)), 4), "stride: 8 frames are not one and groups of 4"),
        (lambda: reduce_time(jnp.zeros((9, 1)), 4, "mean"), "time: unknown 'mean'"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
