import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.config import build
from vdm_jax.diffusion import VP, RectifiedFlow
from vdm_jax.diffusion.configuration import SOLVERS
from vdm_jax.diffusion.windows import Windows
from vdm_jax.models.dit import DiT, DiTConfig
from vdm_jax.sampling import Known, SampleConfig
from vdm_jax.sampling.generate import make_generator
from vdm_jax.sampling.noise.similar import FrameSimilarityPrior
from vdm_jax.training.state import define

SHAPE = (2, 4, 4, 3)
PROCESS = RectifiedFlow(prediction="x0")
NULL = {"text_ids": np.array([[1, 0]], np.int32), "text_mask": np.array([[True, False]])}
TEXT = {"text_ids": np.array([[1, 5], [1, 9], [1, 5]], np.int32), "text_mask": np.ones((3, 2), bool)}
KEY = jax.random.key(3)


def encode(ids, mask, dtype=jnp.float32):
    """One token a prompt: a tenth of the sum of its ids."""
    return {"tokens": ids.sum(1, keepdims=True)[..., None].astype(dtype) / 10, "tokens_mask": mask[:, :1]}


def merge(params):
    """Networks whose belief is `scale * prompt` everywhere, whatever they are shown."""

    def backbone(x, time, cond):
        value = cond["tokens"][:, 0, 0] if cond else jnp.ones(x.shape[0])
        return jnp.broadcast_to((params["scale"] * value)[:, None, None, None, None], x.shape)

    return {"backbone": backbone, "text": encode}


def generate(params=None, text=TEXT, key=KEY, null=NULL, **fields):
    config = SampleConfig(**{"steps": 3, "guidance": 1.0, **fields})
    return make_generator(PROCESS, merge, config, SHAPE, null)(params or {"scale": 1.0}, text, key)


def test_each_prompt_gets_its_own_clip():
    clips = np.asarray(generate())
    assert (clips.shape, clips.dtype) == ((3, *SHAPE), np.float32)
    np.testing.assert_allclose(clips[0], 0.6, atol=1e-5)
    np.testing.assert_allclose(clips[1], 1.0, atol=1e-5)


def test_parameters_and_prompts_are_arguments_of_one_program():
    traced = []

    def counted(params):
        traced.append(1)
        return merge(params)

    make = make_generator(PROCESS, counted, SampleConfig(steps=2, guidance=1.0), SHAPE, NULL)
    a = make({"scale": 1.0}, TEXT, KEY)
    b = make({"scale": 0.5}, {**TEXT, "text_ids": TEXT["text_ids"][::-1]}, jax.random.key(4))
    assert len(traced) == 1
    np.testing.assert_allclose(np.asarray(a)[0] / 2, np.asarray(b)[2], atol=1e-5)


def test_guidance_goes_away_from_the_empty_prompt():
    plain, guided = (np.asarray(generate(clip_x0=False, guidance=g)) for g in (1.0, 3.0))
    np.testing.assert_allclose(plain[0], 0.6, atol=1e-5)
    np.testing.assert_allclose(guided[0], 0.1 + 3 * (0.6 - 0.1), atol=1e-4)


@pytest.mark.parametrize(("clip", "largest"), [(True, 1.0), (False, 1.6)])
def test_pixels_stay_in_their_range_if_asked_to(clip, largest):
    clips = np.asarray(generate(guidance=3.0, clip_x0=clip))
    np.testing.assert_allclose(clips[0].max(), min(largest, 1.6), atol=1e-4)


def test_a_model_without_text_is_told_how_many():
    clips = np.asarray(generate(text=2, null=None))
    assert clips.shape == (2, *SHAPE)
    np.testing.assert_allclose(clips, 1.0, atol=1e-5)
    with pytest.raises(ValueError, match="given: 0 is not a number of clips; at least 1"):
        generate(text=0, null=None)


def test_the_key_decides():
    def noisy(params):  # believes half of what it sees, so that the prior shows through
        return {"backbone": lambda x, time, cond: x / 2}

    make = make_generator(PROCESS, noisy, SampleConfig(steps=2, clip_x0=False), SHAPE, None)
    a, b, c = (np.asarray(make({}, 2, jax.random.key(seed))) for seed in (0, 0, 1))
    assert a.tobytes() == b.tobytes()
    assert np.abs(a - c).max() > 1e-3
    assert np.abs(a[0] - a[1]).max() > 1e-3


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_ends_at_what_the_network_believes(solver):
    np.testing.assert_allclose(np.asarray(generate(solver=solver, steps=4))[0], 0.6, atol=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps: 0 must be 1 or more"),
        ({"solver": "dimm"}, "solver: unknown 'dimm'; did you mean 'ddim'"),
    ],
)
def test_a_wrong_field_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        SampleConfig(**fields)


def known_of(frames, batch=3):
    """The given frames of some clips."""
    mask = np.zeros((batch, SHAPE[0]), bool)
    mask[:, frames] = True
    return Known(mask, np.random.default_rng(0).uniform(-1, 1, (batch, *SHAPE)).astype(np.float32))


@pytest.mark.parametrize("way", ["clean", "shared"])
def test_given_frames_come_back_bit_for_bit_and_are_told_as_in_training(way):
    told = []

    def showing(params):
        def backbone(x, time, cond):
            jax.debug.callback(lambda t, x: told.append((np.asarray(t), np.asarray(x))), time, x)
            return 0.5 * x

        return {"backbone": backbone}

    known = known_of([1], batch=2)
    config = SampleConfig(steps=3, guidance=1.0)
    make = make_generator(PROCESS, showing, config, SHAPE, None, known_way=way)
    clips = np.asarray(make({}, 2, KEY, known=known))
    np.testing.assert_array_equal(clips[:, 1], known.value[:, 1])
    assert len(told) == 3
    for time, x in told:
        np.testing.assert_array_equal(x[:, 1], known.value[:, 1])
        assert (time[:, 1] == (0.0 if way == "clean" else time[:, 0])).all()
        assert (time[:, 0] > 0.0).all()
    other = Known(known.mask, np.where(known.mask[..., None, None, None], known.value, 7.0))
    np.testing.assert_array_equal(make({}, 2, KEY, known=other), clips)  # what is not given has no influence


def test_guidance_and_given_frames_go_together():
    known = known_of([0])
    make = make_generator(PROCESS, merge, SampleConfig(steps=3, guidance=3.0), SHAPE, NULL)
    clips = np.asarray(make({"scale": 1.0}, TEXT, KEY, known=known))
    np.testing.assert_array_equal(clips[:, 0], known.value[:, 0])
    np.testing.assert_allclose(clips[0, 1], 1.0, atol=1e-4)


def test_without_repaste_the_network_has_its_say():
    known = known_of([0])
    make = make_generator(PROCESS, merge, SampleConfig(steps=3, guidance=1.0, repaste=False), SHAPE, NULL)
    clips = np.asarray(make({"scale": 1.0}, TEXT, KEY, known=known))
    np.testing.assert_allclose(clips[0, 0], 0.6, atol=1e-5)


def test_known_frames_must_fit():
    make = make_generator(PROCESS, merge, SampleConfig(steps=3), SHAPE, NULL)
    with pytest.raises(ValueError, match="known: value shape"):
        make({"scale": 1.0}, TEXT, KEY, known=Known(np.ones((3, 2), bool), np.zeros((3, 2, 4, 5, 3))))


def test_clips_start_from_noise_that_reads_something():
    """A network that takes what it sees for the clip gives back the noise."""

    def seen(params):
        return {"backbone": lambda x, time, cond: x}

    flow = jnp.zeros((2, 2, 4, 4, 2))
    fields = {"steps": 1, "guidance": 1.0, "clip_x0": False}
    config = SampleConfig(**fields, noise={"kind": "warped", "scale": 1, "degradation": 0.0})
    make = make_generator(PROCESS, seen, config, (3, 4, 4, 3), None)
    still = np.asarray(make({}, 2, KEY, {"flow": flow}))
    np.testing.assert_allclose(still[:, 1:], still[:, :1].repeat(2, 1), rtol=1e-5)
    moved = np.asarray(make({}, 2, KEY, {"flow": flow + jnp.asarray([1.0, 0.0])}))
    np.testing.assert_allclose(moved[:, 0], still[:, 0], rtol=1e-5)
    np.testing.assert_allclose(moved[:, 1, :, 1:], moved[:, 0, :, :-1], rtol=1e-4)
    with pytest.raises(ValueError, match="noise: Warped needs flow"):
        make({}, 2, KEY)
    with pytest.raises(ValueError, match="noise.kind: unknown 'warpt'; did you mean 'warped'"):
        SampleConfig(noise={"kind": "warpt"})


LONG = {"frames": 8, "windows": {"size": 4, "stride": 2}, "noise": {"kind": "rescheduled", "window": 4, "stride": 2}}


def test_longer_clips_through_windows_from_rescheduled_noise():
    config = DiTConfig(patch=(1, 4, 4), dim=8, depth=1, heads=1, attention="factorised", mlp_dim=8)
    definitions = define(lambda rngs: {"backbone": DiT(config, rngs)})
    drawn = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: drawn.normal(0, 0.3, leaf.shape).astype(np.float32), definitions.abstract)
    clips = {}
    for name, left_out in (("both", ()), ("windows", ("noise",)), ("noise", ("windows",))):
        fields = {key: value for key, value in LONG.items() if key not in left_out}
        chosen = build(SampleConfig, {"steps": 2, "guidance": 1.0, **fields}, "sample")
        clips[name] = np.asarray(make_generator(PROCESS, definitions.merge, chosen, (4, 4, 4, 3), None)(params, 1, KEY))
        assert clips[name].shape == (1, 8, 4, 4, 3)
    assert np.abs(clips["both"] - clips["windows"]).max() > 1e-3
    assert np.abs(clips["both"] - clips["noise"]).max() > 1e-5


def test_long_clips_denoised_window_by_window_are_clips_of_the_prompt():
    clips = np.asarray(generate(frames=6, co_denoise=Windows(2, 2)))
    assert clips.shape == (3, 6, *SHAPE[1:])
    np.testing.assert_allclose(clips[1], 1.0, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frames": -1}, "frames: -1 must be 1 or more, or 0"),
        ({"windows": Windows(2, 1), "co_denoise": Windows(2, 1)}, "co_denoise: there are windows in the attention"),
        ({"frames": 5, "co_denoise": Windows(2, 2)}, "frames: 5 leaves the last 1 in no window"),
        ({"windows": Windows(2, 1)}, "windows: .* has no temporal attention"),
    ],
)
def test_windows_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        generate(**fields)


def test_solvers_that_draw_noise_weaken_what_is_rescheduled():
    with pytest.warns(UserWarning, match="lcm draws plain noise at every step"):
        generate(solver="lcm", noise={"kind": "rescheduled", "window": 2, "stride": 1})


def test_guidance_may_rise_along_the_clip():
    """From 1, the prompt itself, to the scale of the last frame; level ramps are plain guidance, bit for bit."""
    clips = np.asarray(generate(clip_x0=False, guidance=3.0, guidance_from=1.0))
    np.testing.assert_allclose(clips[0, 0], 0.6, atol=1e-5)
    np.testing.assert_allclose(clips[0, 1], 0.1 + 3 * (0.6 - 0.1), atol=1e-4)
    level = generate(clip_x0=False, guidance=3.0, guidance_from=3.0)
    np.testing.assert_array_equal(level, generate(clip_x0=False, guidance=3.0))


def test_guidance_may_go_towards_a_picture_too():
    """Without guidance `concat` is there, and of a guided clip the unconditional half has zeros and the same prompt."""

    def shown(params):
        def backbone(x, time, cond):
            return jnp.broadcast_to(0.1 * cond["concat"], x.shape)

        return {"backbone": backbone}

    def made(**fields):
        config = SampleConfig(steps=2, clip_x0=False, **fields)
        return make_generator(PROCESS, shown, config, SHAPE, None)({}, {"concat": np.ones((1, *SHAPE))}, KEY)

    np.testing.assert_allclose(made(guidance=3.0, guidance_also=("concat",)), 0.3, atol=1e-5)
    np.testing.assert_allclose(made(guidance=3.0), 0.1, atol=1e-5)
    with pytest.raises(ValueError, match="guidance_also: unknown 'image'"):
        made(guidance_also=("image",))
    with pytest.raises(ValueError, match="guidance_also: unknown 'conact'; did you mean 'concat'"):
        SampleConfig(guidance_also=("conact",))


def test_a_clip_of_one_frame_is_drawn_as_a_picture():
    told = []

    class Knowing:
        may_read = frozenset({"image_only"})

        def __call__(self, x, time, cond):
            told.append(cond)
            return x

    config = SampleConfig(steps=1, guidance=1.0)
    for frames in (1, 2):
        make = make_generator(PROCESS, lambda params: {"backbone": Knowing()}, config, (frames, 4, 4, 3), None)
        make({}, 2, KEY)
    assert told[0]["image_only"].shape == (2, 1)
    assert not told[-1]


def test_clips_start_from_a_frame_that_is_given_and_keep_what_is_not_denoised():
    known = given_of_prior()
    belief = {"steps": 2, "guidance": 1.0, "clip_x0": False}
    process = VP(prediction="x0")

    def begun(**prior):
        config = build(SampleConfig, {**belief, "prior": {"blur_size": 1, **prior}}, "sample")
        return make_generator(process, still, config, SHAPE, None)({}, 3, KEY, known=known)

    clips = begun(t0=0.3, p=0.0)
    np.testing.assert_array_equal(clips[:, 0], known.value[:, 0])
    alpha, sigma = (float(value) for value in process.alpha_sigma(jnp.float32(0.3)))
    assert abs((np.asarray(clips[:, 1]) - alpha * known.value[:, 0]).std() - sigma) < 0.15
    assert (begun(t0=1e-3, p=0.0)[:, 1] - known.value[:, 0]).std() < 0.05
    with pytest.raises(ValueError, match="sample.prior: starts from a frame that is given, and no whole frame is"):
        make_generator(process, still, SampleConfig(prior=FrameSimilarityPrior()), SHAPE, None)({}, 3, KEY)
    with pytest.raises(ValueError, match="prior: draws plain noise of its own, and noise is another"):
        SampleConfig(prior=FrameSimilarityPrior(), noise={"kind": "independent"})


def given_of_prior():
    """A picture, the first frame of each of three clips."""
    mask = np.broadcast_to(np.arange(SHAPE[0]) == 0, (3, SHAPE[0]))
    return Known(mask, np.random.default_rng(0).uniform(-1, 1, (3, *SHAPE)).astype(np.float32))


def still(params):
    """A network that believes what it sees."""
    return {"backbone": lambda x, time, cond: x}
