import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.diffusion import EDM, VP, RectifiedFlow
from vdm_jax.objectives import Drawn
from vdm_jax.objectives.denoising import DenoisingObjective, as_float, compute_dtype, empty_value, given_frames

B, T, H, W, C, L, D = 4, 3, 4, 4, 2, 5, 6
PROCESSES = [RectifiedFlow(), VP(), EDM()]


class Recorder(nnx.Module):
    """A linear backbone that keeps what it was called with."""

    def __init__(self, reads=frozenset(), gain=0.5):
        self.gain = nnx.Param(jnp.asarray(gain))
        self.reads = frozenset(reads)
        self.calls = nnx.static([])

    def __call__(self, x, t, cond):
        self.calls.append((x, t, cond))
        return jax.tree.map(lambda leaf: self.gain[...] * leaf, x)


class Text(nnx.Module):
    """Features that give the token ids away."""

    def __call__(self, ids, mask, dtype=jnp.float32):
        tokens = jnp.broadcast_to(ids[..., None], (*ids.shape, D)).astype(dtype)
        return {"tokens": tokens, "tokens_mask": mask}


def batch_of(size=B, **more):
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (size, T, H, W, C), dtype=np.uint8)
    return {"video": jnp.asarray(video), **more}


def text_batch(size=B):
    ids = jnp.arange(1, size + 1, dtype=jnp.int32)[:, None] * jnp.ones((1, L), jnp.int32)
    return batch_of(size, text_ids=ids, text_mask=jnp.ones((size, L), bool))


def with_text(**fields):
    null = {"null_ids": (0,) * L, "null_mask": (True,) + (False,) * (L - 1)}
    return DenoisingObjective(RectifiedFlow(), **null, **fields)


KEY = jax.random.key(3)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_the_loss_is_the_formula(process):
    objective, backbone, batch = DenoisingObjective(process), Recorder(), batch_of()
    loss, metrics = objective({"backbone": backbone}, batch, KEY)
    draws = objective.draw(batch, KEY)
    x0 = batch["video"] / 127.5 - 1.0
    noise = jax.vmap(lambda key: jax.random.normal(key, (T, H, W, C)))(draws["noise"])
    fed, told, _ = backbone.calls[0]
    time = draws["time"]
    np.testing.assert_allclose(
        fed, process.network_input(process.q_sample(x0, noise, time), time), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(told, process.network_time(time))
    square = (0.5 * fed - process.target(x0, noise, time)) ** 2
    weight = process.weight(time)[..., None, None, None]
    np.testing.assert_allclose(loss, (weight * square).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["mse"], square.mean(), rtol=1e-5)


def test_a_perfect_network_has_no_loss():
    """With all-zero clips the velocity is the noise, which x_t / t gives away."""

    class Perfect(Recorder):
        def __call__(self, x, t, cond):
            return x / (t / 1000.0)[..., None, None, None]

    batch = {"video": jnp.zeros((B, T, H, W, C))}
    loss, _ = DenoisingObjective(RectifiedFlow())({"backbone": Perfect()}, batch, KEY)
    assert float(loss) < 1e-8


def test_microbatches_draw_what_the_whole_batch_draws():
    objective = with_text(dropout={"tokens": 0.5})
    assert isinstance(objective, Drawn)
    networks, batch = {"backbone": Recorder({"tokens"}), "text": Text()}, text_batch()
    draws = objective.draw(batch, KEY)
    whole, metrics = objective.loss(networks, batch, draws)
    rows = [jax.tree.map(lambda x, i=i: x[i : i + 1], (batch, draws)) for i in range(B)]
    parts = [objective.loss(networks, *row) for row in rows]
    np.testing.assert_allclose(np.mean([p[0] for p in parts]), whole, rtol=1e-6)
    np.testing.assert_allclose(np.mean([p[1]["mse"] for p in parts]), metrics["mse"], rtol=1e-6)
    dropped = [np.asarray(call[2]["tokens"]) for call in networks["backbone"].calls]
    np.testing.assert_array_equal(dropped[0], np.concatenate(dropped[1:]))


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_given_frames_are_clean_and_count_for_nothing(process):
    known = jnp.zeros((B, T), bool).at[:, 0].set(True)
    objective, batch = DenoisingObjective(process), batch_of(known=known)
    loss = lambda gain: objective({"backbone": Recorder(gain=gain)}, batch, KEY)[0]  # noqa: E731
    value, slope = jax.value_and_grad(loss)(0.5)
    assert np.isfinite(value)
    assert np.isfinite(slope)
    backbone = Recorder()
    objective({"backbone": backbone}, batch, KEY)
    fed, told, cond = backbone.calls[0]
    clean = process.network_input(as_float(batch["video"]), jnp.zeros((B, T)))
    np.testing.assert_allclose(fed[:, 0], clean[:, 0], rtol=1e-6)
    assert (told[:, 0] == process.network_time(jnp.float32(0.0))).all()
    assert "known" not in cond

    class Wrong(Recorder):
        def __call__(self, x, t, cond):
            return super().__call__(x, t, cond).at[:, 0].add(1e6)

    np.testing.assert_allclose(objective({"backbone": Wrong()}, batch, KEY)[0], value, rtol=1e-6)


def test_given_regions_are_clean_and_count_for_nothing():
    known = jnp.zeros((B, T, H, W, 1), bool).at[:, :, :2].set(True)
    objective, backbone, batch = DenoisingObjective(RectifiedFlow()), Recorder({"known"}), batch_of(known=known)
    loss, _ = objective({"backbone": backbone}, batch, KEY)
    fed, told, cond = backbone.calls[0]
    np.testing.assert_array_equal(fed[:, :, :2], as_float(batch["video"])[:, :, :2])
    assert (told > 0).all()  # a frame that is given in part is as noisy as the others
    assert (cond["known"] == known).all()

    class Wrong(Recorder):
        def __call__(self, x, t, cond):
            return super().__call__(x, t, cond).at[:, :, :2].add(1e6)

    np.testing.assert_allclose(objective({"backbone": Wrong({"known"})}, batch, KEY)[0], loss, rtol=1e-6)


def test_an_example_counts_the_same_however_much_of_it_is_given():
    half = jnp.zeros((2, T), bool).at[0, :2].set(True)
    objective, networks = DenoisingObjective(RectifiedFlow()), {"backbone": Recorder()}
    batch = batch_of(2, known=half)
    draws = objective.draw(batch, KEY)
    whole = objective.loss(networks, batch, draws)[0]
    rows = [objective.loss(networks, *jax.tree.map(lambda x, i=i: x[i : i + 1], (batch, draws)))[0] for i in range(2)]
    np.testing.assert_allclose(whole, np.mean(rows), rtol=1e-6)


def test_text_is_encoded_and_dropped_to_the_empty_prompt():
    networks = {"backbone": Recorder({"tokens"}), "text": Text()}
    for rate, expected in ((0.0, {1, 2, 3, 4}), (1.0, {0})):
        with_text(dropout={"tokens": rate})(networks, text_batch(), KEY)
        cond = networks["backbone"].calls[-1][2]
        assert set(np.asarray(cond["tokens"])[:, 0, 0].astype(int)) == expected
        assert int(cond["tokens_mask"].sum()) == (B * L if rate == 0 else B)


def test_dropout_has_its_rate_and_is_per_example():
    networks = {"backbone": Recorder({"tokens", "vector"}), "text": Text()}
    objective = with_text(dropout={"tokens": 0.25, "vector.fps": 0.5}, vector=("fps",))
    batch = {**text_batch(400), "fps": jnp.full((400,), 8.0)}
    objective(networks, batch, KEY)
    cond = networks["backbone"].calls[0][2]
    no_text = np.asarray(cond["tokens"])[:, 0, 0] == 0
    no_fps = np.asarray(cond["vector"]["fps"]) == -1
    assert abs(no_text.mean() - 0.25) < 0.08
    assert abs(no_fps.mean() - 0.5) < 0.1
    assert abs((no_text & no_fps).mean() - 0.125) < 0.06  # each key draws for itself


def test_other_conditions_are_passed_on():
    concat = jnp.ones((B, T, H, W, 1))
    backbone = Recorder({"concat"})
    DenoisingObjective(RectifiedFlow(), {"concat": 1.0})({"backbone": backbone}, batch_of(concat=concat), KEY)
    assert not backbone.calls[0][2]["concat"].any()


def test_dicts_of_clips_are_denoised_leaf_by_leaf():
    batch = {"video": {"rgb": jnp.ones((B, T, H, W, C)), "sound": jnp.ones((B, T, 7))}}
    loss, _ = DenoisingObjective(RectifiedFlow())({"backbone": Recorder()}, batch, KEY)
    assert np.isfinite(loss)


def test_bfloat16_networks_are_fed_bfloat16_and_the_loss_is_float32():
    backbone = Recorder(gain=jnp.bfloat16(0.5))
    loss, metrics = DenoisingObjective(RectifiedFlow())({"backbone": backbone}, batch_of(), KEY)
    fed, told, _ = backbone.calls[0]
    assert compute_dtype(backbone) == jnp.bfloat16
    assert (fed.dtype, told.dtype, loss.dtype, metrics["mse"].dtype) == (jnp.bfloat16, *[jnp.float32] * 3)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_evaluation_covers_the_noise_range_band_by_band(process):
    objective = DenoisingObjective(process, bands=4)
    keys = jax.random.split(KEY, B)
    result = objective.evaluate({"backbone": Recorder()}, batch_of(), keys)
    bands = [name for name in result if name.startswith("mse/")]
    assert len(bands) == 4
    np.testing.assert_allclose(np.mean([result[name] for name in bands]), result["mse"], rtol=1e-6)
    edges = [tuple(map(float, name.removeprefix("mse/").split("-"))) for name in bands]
    assert edges[0][1] == pytest.approx(process.t_max, rel=1e-2)
    assert edges[-1][0] == 0
    assert all(high[0] == low[1] for high, low in itertools.pairwise(edges))


def test_evaluation_drops_nothing_and_ignores_the_batch_an_example_is_in():
    objective = with_text(dropout={"tokens": 1.0}, bands=2)
    networks, batch = {"backbone": Recorder({"tokens"}), "text": Text()}, text_batch()
    keys = jax.random.split(KEY, B)
    whole = objective.evaluate(networks, batch, keys)
    rows = [jax.tree.map(lambda x, i=i: x[i : i + 1], (batch, keys)) for i in range(B)]
    parts = [objective.evaluate(networks, *row) for row in rows]
    for name, value in whole.items():
        np.testing.assert_allclose(np.mean([p[name] for p in parts]), value, rtol=1e-5)


@pytest.mark.parametrize(("networks", "batch", "message"), [
    ({"backbone": Recorder()}, text_batch(), "text: there is text, but no encoder"),
    ({"backbone": Recorder({"tokens"}), "text": Text()}, batch_of(), "text: there is an encoder, but the batch no"),
    ({"backbone": Recorder(), "text": Text()}, text_batch(), "Recorder does not read 'tokens'"),
    ({"backbone": Recorder()}, batch_of(hint=jnp.ones((B, T, H, W, 1))), "Recorder does not read 'hint'"),
])  # fmt: skip
def test_conditions_nobody_reads_are_refused(networks, batch, message):
    with pytest.raises(ValueError, match=message):
        with_text()(networks, batch, KEY)


@pytest.mark.parametrize(("fields", "message"), [
    ({"dropout": {"token": 0.1}}, "dropout: unknown 'token'; did you mean 'tokens'"),
    ({"bands": 0}, "bands: 0"),
    ({"null_ids": (1, 2)}, "null_mask: 0 entries for 2 null_ids"),
])  # fmt: skip
def test_config_names_what_is_wrong(fields, message):
    with pytest.raises(ValueError, match=message):
        DenoisingObjective(RectifiedFlow(), **fields)


def test_small_pieces():
    assert as_float(jnp.uint8([0, 255])).tolist() == [-1.0, 1.0]
    region = jnp.ones((1, 2, 2, 2, 1), bool).at[0, 1, 0, 0].set(False)
    assert given_frames(region).tolist() == [[True, False]]
    assert (empty_value("vector.fps"), empty_value("hint"), empty_value("known")) == (-1, 0, False)
    assert empty_value("camera").shape == (3, 4)
    assert dataclasses.is_dataclass(DenoisingObjective)
