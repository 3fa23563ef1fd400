import base64
import html.parser
import re

import numpy as np
import pytest

from vdm_jax.media import embed
from vdm_jax.media import report as reports
from vdm_jax.media.grid import enlarge
from vdm_jax.media.report import Report, Sample, duration, format_value, render, write_report
from vdm_jax.media.video import decode


def clip(level=120, t=3, size=8):
    x = np.full((t, size, size, 3), level, np.uint8)
    x[:, : size // 2] = (200, 30, 30)
    return x


class Page(html.parser.HTMLParser):
    """Collects tags, attributes and text, and checks that tags are closed."""

    VOID = frozenset({"meta", "img", "input", "br", "link", "path", "use", "rect"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def full():
    samples = [
        Sample(
            "a <red> square & more", clip(), clip(90, size=20), {"colour": True, "shape": np.bool_(False), "seen": "x"}
        ),
        *[Sample(f"prompt {i}", clip(i), verdict={"colour": True, "shape": True}) for i in range(reports.SHOWN)],
    ]
    return Report(
        "Title <b>",
        "sub",
        summary={
            "prompt_agreement": np.float32(0.5),
            "train_seconds": 75.0,
            "parameters": 1234567,
            "final_loss": 0.12345,
        },
        curves={"train/loss": [(i, 1 / (i + 1)) for i in range(50)], "eval/loss": [(0, 1.0)], "rate": [(0, 1), (9, 2)]},
        samples=samples,
        notes=["2 files were dropped"],
        timings={"train": 60.0, "sample": 0.5},
        config={"model": {"kind": "dit", "depth": 3}},
    )


@pytest.fixture(scope="module")
def page(full):
    return Page(render(full))


def test_page_needs_nothing_from_outside(full, page):
    assert page.open == []
    for _, attrs in page.tags:
        for name in ("src", "href", "data-src", "poster", "action"):
            assert attrs.get(name, "data:").startswith(("data:", "#"))
    links = set(re.findall(r"https?://[^\"' <)]+", render(full)))
    assert {link.split("/")[2] for link in links} <= {"www.w3.org"}  # XML namespaces, never fetched
    assert "@import" not in render(full)
    assert not page.all("link")


def test_page_shows_every_field(page):
    for text in (
        "Title <b>",
        "50.0 %",
        "1m 15s",
        "1,234,567",
        "0.1235",
        "2 files were dropped",
        "500 ms",
        '"depth": 3',
    ):
        assert text in page.text
    assert len(page.all("svg")) == 2
    assert reports.software()["jax"] in page.text


def test_text_of_others_is_escaped(full):
    assert "<red>" not in render(full)
    assert "a &lt;red&gt; square &amp; more" in render(full)


def test_videos_play_what_was_given(full, page):
    videos = page.all("video")
    assert len(videos) == len(full.samples) + 1
    for attrs in videos:
        assert {"autoplay", "loop", "muted", "playsinline"} <= attrs.keys()
    played = decode(base64.b64decode(videos[0]["src"].partition(",")[2]))
    want = enlarge(full.samples[0].clip, embed.LEAST_SIDE)
    assert played.shape == want.shape
    assert np.abs(played.astype(int) - want).mean() < 3
    real = decode(base64.b64decode(videos[1]["src"].partition(",")[2]))
    assert real.shape[1:3] == (140, 140)


def test_samples_beyond_the_first_wait_for_a_click(full, page):
    videos = page.all("video")
    assert [("src" in v) for v in videos].count(False) == len(full.samples) - reports.SHOWN
    assert f"Show the other {len(full.samples) - reports.SHOWN}" in page.text


def test_verdicts_are_counted(page, full):
    words = " ".join(page.text.split())
    n = len(full.samples)
    assert f"colour {n} of {n}" in words
    assert f"shape {n - 1} of {n}" in words
    assert "seen 0 of" not in words
    assert sum(attrs.get("class") == "agrees" for attrs in page.all("tr")) == n - 1


def test_empty_sections_are_left_out():
    page = Page(render(Report("only a title")))
    assert {attrs["id"] for attrs in page.all("section")} == {"environment"}
    assert not page.all("video")


def test_gif_where_there_is_no_h264(monkeypatch):
    def no_encoder(*_):
        raise LookupError("libx264")

    monkeypatch.setattr(embed, "encode_mp4", no_encoder)
    page = Page(render(Report("t", samples=[Sample("p", clip())])))
    assert not page.all("video")
    (image,) = page.all("img")
    assert base64.b64decode(image["src"].partition(",")[2]).startswith(b"GIF89a")


def test_file_is_written_whole(tmp_path, full):
    write_report(tmp_path / "report.html", full)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(ValueError, match=r"samples\[0\].sample: .*float32"):
        write_report(tmp_path / "report.html", Report("t", samples=[Sample("p", clip().astype(np.float32))]))
    assert "Title" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0344, "34 ms"), (4.26, "4.3 s"), (59.96, "1m 00s"), (75, "1m 15s"), (7300, "2h 01m")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("x", True, "yes"), ("x", float("nan"), "not finite"), ("x", "a", "a"), ("drop_fraction", 0.25, "25.0 %")],
)
def test_values(name, value, text):
    assert format_value(name, value) == text
