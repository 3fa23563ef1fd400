"""Spans: inside shots, as long as asked, on keyframes where asked, whatever the cuts."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.curation.cuts import FADE, HARD, Cut
from data_pipelines.curation.probe import Facts
from data_pipelines.curation.source import Span
from data_pipelines.curation.spans import TICK, SpanSettings, clip_spans, shots

FACTS = Facts("mp4", "h264", "yuv420p", "limited", 72, 128, 0, 60.0, 1440, 24.0, False, (0.0,), "", 1)


@st.composite
def videos(draw):
    duration = draw(st.integers(1, 120_000)) / 1000
    keys = sorted({0.0, *(t / 1000 for t in draw(st.lists(st.integers(0, int(duration * 1000)), max_size=30)))})
    facts = dataclasses.replace(FACTS, duration=duration, keyframes=tuple(keys))
    kinds = draw(
        st.lists(st.tuples(st.floats(0, duration), st.sampled_from((HARD, FADE)), st.floats(0, 4)), max_size=9)
    )
    return facts, [Cut(time, kind, 0.5, width if kind == FADE else 0.0) for time, kind, width in kinds]


@st.composite
def wishes(draw):
    shortest = draw(st.floats(0, 3))
    longest = draw(st.one_of(st.just(0.0), st.floats(max(shortest, 0.2), 12)))
    return SpanSettings(
        shortest=shortest,
        longest=longest,
        stride=draw(st.floats(0.2, 12)) if longest and draw(st.booleans()) else 0.0,
        margin=draw(st.floats(0, 1)),
        keyframes=draw(st.booleans()),
        limit=draw(st.integers(0, 5)),
    )


@settings(max_examples=150, deadline=None)
@given(videos(), wishes())
def test_no_span_contains_a_cut(video, wish):
    facts, cuts = video
    spans = clip_spans(cuts, facts, wish)
    assert spans == sorted(spans)
    assert len(set(spans)) == len(spans)
    assert not wish.limit or len(spans) <= wish.limit
    slack = 2 * TICK + 1e-9
    for span in spans:
        assert span.duration + slack >= wish.shortest
        assert not wish.longest or span.duration <= wish.longest + slack
        assert span.end <= facts.duration + slack
        for cut in cuts:
            assert span.end <= cut.start + slack or span.start >= cut.end - slack, (span, cut)
        if wish.keyframes:
            assert min(abs(span.start - key) for key in facts.keyframes) <= slack
            assert min(abs(span.end - key) for key in (*facts.keyframes, facts.duration)) <= slack


def test_clips_of_a_shot():
    wish = SpanSettings(shortest=2, longest=10, margin=0.5)
    cuts = [Cut(25, HARD, 1), Cut(41, FADE, 1, 2)]
    assert clip_spans(cuts, FACTS, wish) == [
        *(Span(0, 10), Span(10, 20), Span(20, 24.5)),
        *(Span(25.5, 35.5), Span(35.5, 39.5)),
        *(Span(42.5, 52.5), Span(52.5, 60)),
    ]
    assert clip_spans(cuts, FACTS, dataclasses.replace(wish, limit=2)) == [Span(0, 10), Span(25.5, 35.5)]
    assert clip_spans(cuts, FACTS, wish, within=Span(30, 33)) == [Span(30, 33)]
    overlapping = dataclasses.replace(wish, stride=8)
    assert clip_spans([Cut(25, HARD, 1)], FACTS, overlapping, within=Span(0, 26)) == [
        *(Span(0, 10), Span(8, 18), Span(16, 24.5)),
    ]


def test_keyframes():
    facts = dataclasses.replace(FACTS, duration=20.0, keyframes=(0.0, 4.0, 8.0, 12.0, 16.0))
    wish = SpanSettings(shortest=1, longest=9, keyframes=True, margin=0)
    assert clip_spans([Cut(5, HARD, 1)], facts, wish) == [Span(0, 4), Span(8, 16), Span(16, 20)]


def test_a_hard_cut_among_pictures_that_were_not_compared():
    assert shots([Cut(2.0, HARD, 1, 0.1)], 0, 4) == [Span(0, 1.9), Span(2, 4)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shortest": -1}, "shortest: -1 is not at least 0"),
        ({"longest": float("nan")}, "longest: nan"),
        ({"shortest": 5, "longest": 4}, "longest: 4 is below shortest=5"),
        ({"longest": 0, "stride": 2}, "stride: 2 without longest"),
    ],
)
def test_wrong_settings(wrong, message):
    with pytest.raises(ValueError, match=message):
        SpanSettings(**{"shortest": 0, **wrong})
