"""The world of sound: each tone at its time, pitch and place, and an oracle that hears and sees."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.loading.fields.audio import Audio
from data_pipelines.loading.fields.field import Cut
from data_pipelines.worlds.bounce import oracle as bounce_oracle
from data_pipelines.worlds.bounce import world as bounce
from data_pipelines.worlds.sound import oracle as sound_oracle
from data_pipelines.worlds.sound import world as sound
from data_pipelines.worlds.sound.world import SoundConfig, Tone

CONFIG = SoundConfig()


def test_clip_depends_on_its_index_alone():
    again = {i: sound.clip(CONFIG, i, 3) for i in reversed(range(3))}
    for i in range(3):
        one = sound.clip(CONFIG, i, 3)
        np.testing.assert_array_equal(one.video, again[i].video)
        np.testing.assert_array_equal(one.fields["audio"], again[i].fields["audio"])
        assert (one.caption, one.attributes) == (again[i].caption, again[i].attributes)
    assert not np.array_equal(again[0].fields["audio"], sound.clip(CONFIG, 0, 4).fields["audio"])


@pytest.mark.parametrize(("size", "rate"), [((16, 16, 1), 4000), ((31, 17, 2), 8000), ((128, 128, 2), 44100)])
def test_sound_is_as_long_as_the_clip(size, rate):
    config = SoundConfig(height=size[0], width=size[1], frames=size[2], rate=rate)
    made = sound.clip(config, 0)
    assert made.fields["audio"].shape == (round(rate * size[2] / config.fps), 2)
    assert made.attributes["audio_rate"] == rate


def test_a_tone_begins_when_and_where_it_should():
    """Nothing before, the pitch in its zero crossings, the decay, and the level of both sides."""
    config = dataclasses.replace(CONFIG, width=40, rate=16000)
    tone = Tone(0.50003, 0, "left", 10.0, 0.2)  # between two samples
    audio = sound.ring([tone], [500.0], config)
    first = int(np.flatnonzero(audio[:, 0])[0])
    assert first == 8001
    rises = np.flatnonzero((audio[first:-1, 0] < 0) & (audio[first + 1 :, 0] >= 0))[:20]
    np.testing.assert_allclose(np.diff(rises), 32, atol=1)
    later = first + round(sound.DECAY * 16000)
    power = [np.sqrt((audio[k : k + 320].astype(float) ** 2).mean(0)) for k in (first, later)]
    np.testing.assert_allclose(power[1], power[0] / np.e, rtol=1e-3)
    np.testing.assert_allclose(power[0][1] / power[0][0], np.tan(np.pi / 8), rtol=1e-4)
    assert np.abs(audio).max() <= 0.2


def test_tones_are_the_meetings():
    for index in range(4):
        made = sound.clip(CONFIG, index, 1)
        tracks = made.fields["tracks"]
        seconds = [one["second"] for one in made.attributes["sounds"]]
        assert seconds == sorted(seconds)
        for one in made.attributes["sounds"]:
            radius = made.attributes["objects"][one["object"] - 1]["radius"]
            if one["wall"] in ("left", "right"):
                assert one["x"] == pytest.approx(radius if one["wall"] == "left" else 32 - radius, abs=1e-3)
            if one["second"] * CONFIG.fps < CONFIG.frames - 1:
                x = np.interp(one["second"] * CONFIG.fps, np.arange(16), tracks[:, one["object"] - 1, 0])
                assert abs(x - one["x"]) < 2
            assert sound.LOUDNESS[0] <= one["loudness"] <= sound.LOUDNESS[1]
    assert set(sound.PITCHES) == set(bounce.COLOURS)


def test_captions_count():
    made = sound.clip(CONFIG, 0)
    counts = [sum(s["object"] == n for s in made.attributes["sounds"]) for n in (1, 2)]
    parts = made.caption.split(" and ")
    words = ["is silent", "once", "twice", "three times", "four times", "five times"]
    for part, count, ball in zip(parts, counts, made.attributes["objects"], strict=True):
        assert part.startswith(f"a {ball['colour']} ball")
        assert part.endswith(words[count] if count < 6 else f"{count} times")


def test_the_oracle_hears_tones_that_overlap():
    """Two of one pitch 60 ms apart, and one of another in between."""
    told = [Tone(0.3, 0, "left", 8.0, 0.2), Tone(0.33, 1, "left", 16.0, 0.15), Tone(0.36, 0, "right", 24.0, 0.3)]
    audio = sound.ring(told, [sound.PITCHES["red"], sound.PITCHES["green"]], CONFIG)
    heard = sound_oracle.hear(audio + np.random.default_rng(0).normal(0, 0.02, audio.shape), CONFIG)
    assert [one.colour for one in heard] == ["red", "green", "red"]
    np.testing.assert_allclose([one.second for one in heard], [t.time for t in told], atol=2e-3)
    np.testing.assert_allclose([one.x for one in heard], [t.x for t in told], atol=0.7)
    np.testing.assert_allclose([one.loudness for one in heard], [t.loudness for t in told], rtol=0.07)


def test_the_oracle_is_right_and_says_no_to_other_sounds():
    figures = {f.name: f for f in sound_oracle.check(CONFIG, 10, 1)}
    assert {name: f.value for name, f in figures.items() if not f.ok} == {}


def test_the_oracle_names_what_is_not_heard_and_what_has_no_cause():
    made = sound.clip(CONFIG, 0)
    silent = sound_oracle.read(made.video, np.zeros_like(made.fields["audio"]), CONFIG)
    assert silent.heard == silent.causeless == ()
    assert {colour for _, colour in silent.unheard} <= {ball["colour"] for ball in made.attributes["objects"]}
    assert silent.unheard
    assert bounce_oracle.read(made.video[None], CONFIG.motion())[0].broken == ()
    absent = next(c for c in sound.PITCHES if c not in silent.colours)
    audio = sound.ring([Tone(0.5, 0, "left", 8.0, 0.3)], [sound.PITCHES[absent]], CONFIG)
    extra = sound_oracle.read(made.video, made.fields["audio"] + audio, CONFIG)
    assert [one.colour for one in extra.causeless] == [absent]
    black = sound_oracle.read(np.zeros_like(made.video), np.zeros_like(audio), CONFIG)
    assert not black.agrees


def test_its_spectrogram_is_a_field_of_batches():
    made = sound.clip(CONFIG, 0)
    arrays = {"audio": made.fields["audio"]}
    cut = Cut(made.video, 0, arrays, np.arange(16), 16, (1.0, 1.0), (0, 0), False)
    heard = Audio().compute(cut)
    assert heard.shape == (16, 32)
    swapped = dataclasses.replace(cut, arrays={"audio": made.fields["audio"][:, ::-1]}, flip=True)
    np.testing.assert_allclose(Audio().compute(swapped), heard, atol=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 8), ("rate", 1000), ("rate", 8000.0), ("balls", 4), ("balls", 0), ("colours", ("rde",)),
     ("colours", ("red",)), ("radius", (0.2, 0.1)), ("gravity", -1.0), ("restitution", 0.2)],
)  # fmt: skip
def test_wrong_settings_are_named(field, value):
    with pytest.raises(ValueError, match=f"^{field}: "):
        dataclasses.replace(CONFIG, **{field: value})


def test_the_oracle_refuses_what_is_no_sound():
    with pytest.raises(ValueError, match="audio: expected float"):
        sound_oracle.hear(np.zeros((100, 2), np.int16), CONFIG)
    with pytest.raises(ValueError, match="frames: 2"):
        sound_oracle.check(dataclasses.replace(CONFIG, frames=2))
