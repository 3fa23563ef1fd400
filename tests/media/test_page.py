"""Pages of sections, and the page on which people compare."""

import base64
import json
import re

import numpy as np
import pytest

from tests.media.test_report import Page as Parsed
from vdm_jax.errors import RunError
from vdm_jax.media.charts import histogram
from vdm_jax.media.page import (
    Bar,
    Card,
    Charts,
    Clips,
    Page,
    Picture,
    Section,
    Table,
    clip_media,
    render_page,
    write_page,
)
from vdm_jax.media.pairs import drawn_pairs, write_pairs_page
from vdm_jax.media.video import decode


def clip(level, size=16):
    return np.full((2, size, size, 3), level, np.uint8)


def test_every_kind_of_block_is_shown():
    cards = [Card(clip_media(clip(k), 8.0), f"<clip {k}>", ["a line"], {"motion": 0.25}) for k in range(26)]
    blocks = [
        Table(("name", "clips"), [("<b>", 1234), ("c", Bar("17", 0.5))], "a table"),
        Charts([("a chart", histogram([1.0, 2.0]))]),
        Picture(np.zeros((4, 6, 3), np.uint8), "a sheet"),
        Clips(cards),
        Table(("x",), [("y",)], "folded away", folded=True),
    ]
    page = Parsed(
        render_page(Page("t <i>", "sub", {"kept_fraction": 0.5}, [Section("One", blocks, "remark", ["words"])]))
    )
    for words in ("t <i>", "50.0 %", "<b>", "1,234", "remark", "words", "<clip 25>", "motion 0.25", "a line"):
        assert words in page.text
    videos = page.all("video")
    assert [("src" in v) for v in videos] == [True] * 24 + [False] * 2
    assert "Show the other 2" in page.text
    assert [a["width"] for a in page.all("img")] == ["6"]
    assert any("50.0%" in attrs.get("style", "") for attrs in page.all("i"))
    assert len(page.all("details")) == 2
    assert not page.open
    assert not re.findall(r"(?:src|href)=\"(?!data:)", render_page(Page("t", sections=[Section("One", blocks)])))


def test_large_clips_are_shrunk():
    media = clip_media(np.zeros((1, 720, 1280, 3), np.uint8), 8.0)
    assert (media["height"], media["width"]) == ("360", "640")


def test_a_page_is_written_whole(tmp_path):
    write_page(tmp_path / "a.html", Page("t"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]
    with pytest.raises(RunError, match=r"page: cannot write .*absent/a.html: No such file"):
        write_page(tmp_path / "absent" / "a.html", Page("t"))


def test_pairs_are_every_two_of_each_prompt_and_blind():
    couples = [("a", "b"), ("a", "c"), ("b", "c")]
    pairs = drawn_pairs(couples, 20, seed=3)
    assert {(p.number, frozenset((p.left, p.right))) for p in pairs} == {
        (k, frozenset(both)) for k in range(20) for both in ("ab", "ac", "bc")
    }
    assert len(pairs) == 60
    assert pairs == drawn_pairs(couples, 20, seed=3) != drawn_pairs(couples, 20, seed=4)
    lefts = sum(p.left < p.right for p in pairs)
    assert 15 < lefts < 45
    assert [p.number for p in pairs] != sorted(p.number for p in pairs)


def test_the_page_of_pairs_holds_the_clips(tmp_path):
    clips = {"motion>=0.5": [clip(200), clip(220)], "everything": [clip(10), clip(30)]}
    pairs = write_pairs_page(tmp_path / "p.html", clips, ["a </script> cat", ""], 8.0)
    text = (tmp_path / "p.html").read_text()
    assert text.count("</script>") == 1
    shown = json.loads(re.search(r"var shown = (\{.*\});", text)[1])
    assert shown["prompts"] == ["a </script> cat", ""]
    for pair, (number, left, right) in zip(pairs, shown["pairs"], strict=True):
        assert (number, shown["names"][left], shown["names"][right]) == (pair.number, pair.left, pair.right)
        for place, name in ((left, pair.left), (right, pair.right)):
            played = decode(base64.b64decode(shown["clips"][place][number].partition(",")[2]))
            assert abs(int(played.mean()) - int(clips[name][number].mean())) < 4
    clips["other"] = [clip(50), clip(60)]
    assert len(write_pairs_page(tmp_path / "q.html", clips, ["", ""], 8.0)) == 6
    assert len(write_pairs_page(tmp_path / "q.html", clips, ["", ""], 8.0, [("other", "everything")])) == 2
    with pytest.raises(ValueError, match="^clips: of 1 names"):
        write_pairs_page(tmp_path / "q.html", {"a": [clip(1)]}, [""], 8.0)
