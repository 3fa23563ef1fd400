"""Inputs: every layout gives the sources that are there, in one order, and names what it refuses."""

import io
import json
import tarfile

import pytest

from data_pipelines.curation.inputs.found import InputSettings
from data_pipelines.curation.inputs.opening import open_inputs
from data_pipelines.curation.inputs.webdataset import brace_range
from data_pipelines.curation.source import Source, Span, local_path
from vdm_jax.errors import RunError
from vdm_jax.media.video import VideoError


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def make_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def ids(found):
    return [source.id for source in found.sources]


def reasons(found):
    return [(drop.file.rpartition("/")[2], drop.reason) for drop in found.refused]


def test_source_survives_json():
    source = Source("a#1", "x/a.mp4", caption="é", captions=(("b", 0.5), ("c", 0.5)), span=Span(0.1, 2), extra={"k": 1})
    assert Source.from_json(source.to_json()) == source
    assert source.group == "a#1"
    with pytest.raises(ValueError, match="is no source"):
        Source.from_json('{"id": "a"}')


def test_folder_and_what_it_leaves_alone(tmp_path):
    put(tmp_path, "b/x.MP4", "a.webm", "a.txt", ".hidden/c.mp4", "notes.pdf", "cover.jpg")
    found = open_inputs([tmp_path])
    assert ids(found) == ["a.webm", "b/x.MP4"]
    assert found.ignored == ((".jpg", 1), (".pdf", 1))
    assert ids(open_inputs([tmp_path], InputSettings(images="yes"))) == ["a.webm", "b/x.MP4", "cover.jpg"]


def test_images_count_where_there_is_nothing_else(tmp_path):
    put(tmp_path, "1.png", "2.jpg")
    assert [s.kind for s in open_inputs([tmp_path]).sources] == ["image", "image"]
    with pytest.raises(ValueError, match="holds nothing to curate"):
        open_inputs([tmp_path], InputSettings(images="no"))


def test_glob_and_single_file(tmp_path):
    put(tmp_path, "b/x.mp4", "b/c/y.mp4", "z.mkv")
    assert ids(open_inputs([f"{tmp_path}/**/*.mp4"])) == ["b/c/y.mp4", "b/x.mp4"]
    assert ids(open_inputs([tmp_path / "z.mkv", tmp_path / "b" / "x.mp4"])) == ["z.mkv", "x.mp4"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("none", "is neither a file nor a folder"),
        ("*.mp4", "nothing matches"),
        ("notes.pdf", "named like nothing that can be curated"),
    ],
)
def test_wrong_words(tmp_path, word, message):
    put(tmp_path, "notes.pdf")
    with pytest.raises(ValueError, match=message):
        open_inputs([tmp_path / word])


def test_two_sources_of_one_id(tmp_path):
    put(tmp_path, "a/x.mp4", "b/x.mp4")
    with pytest.raises(ValueError, match=r"two sources have the id 'x\.mp4' .*a/x\.mp4 and .*b/x\.mp4"):
        open_inputs([tmp_path / "a", tmp_path / "b"])


def test_tar_members_are_read_where_they_lie(tmp_path):
    members = {
        "p/1.mp4": b"one" * 999,
        "p/1.txt": b" a  cat ",
        "2.mp4": b"two",
        "2.json": json.dumps({"text": "a dog", "captions": ["a dog", "an animal"], "score": 2}).encode(),
        "3.mp4": b"three",
        "3.txt": b"caf\xe9",
        "3.idx": b"",
    }
    make_tar(tmp_path / "s-000.tar", members)
    found = open_inputs([tmp_path])
    assert ids(found) == ["s-000/p/1.mp4", "s-000/2.mp4"]
    first, second = found.sources
    assert (first.caption, second.captions, second.extra) == (
        "a cat",
        (("a dog", 0.5), ("an animal", 0.5)),
        {"score": 2},
    )
    assert reasons(found) == [("3.txt", "bad_caption")]
    with local_path(first) as path:
        assert (path.read_bytes(), path.suffix) == (members["p/1.mp4"], ".mp4")
    assert not path.exists()


def test_tar_that_breaks_off(tmp_path):
    make_tar(tmp_path / "s.tar", {"1.mp4": b"a" * 2000, "2.mp4": b"b" * 9000})
    data = (tmp_path / "s.tar").read_bytes()
    (tmp_path / "s.tar").write_bytes(data[:5000])
    found = open_inputs([tmp_path / "s.tar"])
    assert (ids(found), reasons(found)) == (["s/1.mp4"], [("s.tar", "truncated")])
    (tmp_path / "t.tar").write_bytes(b"no tar at all")
    with pytest.raises(RunError, match="not an uncompressed tar"):
        open_inputs([tmp_path / "t.tar"])


def test_braces():
    assert brace_range("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert brace_range("{0..1}/{0..1}") == ["0/0", "0/1", "1/0", "1/1"]


def test_guessed_columns_spans_and_bad_rows(tmp_path):
    put(tmp_path, "v/a.mp4")
    rows = ["video,caption,start,end,score", "v/a.mp4,one,0,2.5,1", "v/a.mp4,two,2.5,4,2", ",x,,,", "v/b.mp4,x,,,"]
    rows += ["v/a.mp4,x,3,1,0", "v/a.mp4,x,nan,1,0", "v/a.mp4,too,few"]
    (tmp_path / "t.csv").write_bytes("\n".join(rows).encode() + b"\nv/a.mp4,caf\xe9,8,9,0\n")
    found = open_inputs([tmp_path / "t.csv"])
    assert ids(found) == ["v/a.mp4#0-2500", "v/a.mp4#2500-4000"]
    assert {s.group for s in found.sources} == {"v/a.mp4"}
    assert found.sources[1].span == Span(2.5, 4)
    assert found.sources[1].extra == {"score": "2"}
    wanted = ["no_path", "missing", "bad_span", "bad_span", "bad_row", "bad_caption"]
    assert reasons(found) == [(f"t.csv:{n}", reason) for n, reason in zip(range(3, 9), wanted)]


def test_columns_that_are_not_there(tmp_path):
    put(tmp_path, "a.mp4")
    (tmp_path / "t.tsv").write_text("clipfile\ttext\na.mp4\tone\n")
    with pytest.raises(ValueError, match="no column of paths that can be guessed"):
        open_inputs([tmp_path / "t.tsv"])
    with pytest.raises(ValueError, match=r"columns\.path: unknown 'clip_file'; did you mean 'clipfile'"):
        open_inputs([tmp_path / "t.tsv"], InputSettings(columns=(("path", "clip_file"),)))
    found = open_inputs([tmp_path / "t.tsv"], InputSettings(columns=(("path", "clipfile"),)))
    assert [(s.id, s.caption) for s in found.sources] == [("a.mp4", "one")]
    with pytest.raises(ValueError, match="columns: unknown 'paht'; did you mean 'path'"):
        InputSettings(columns=(("paht", "x"),))


def test_published_layouts(tmp_path):
    put(tmp_path, "dance/abc_000010_000020.mp4", "xyz.mp4", "p1/7.mp4", "v_Run_g08_c01.avi", "v_Run_g08_c02.avi")
    tables = {
        "kinetics.csv": "label,youtube_id,time_start,time_end,split\ndance,abc,10,20,train\nrun,xyz,3,5,train\n",
        "webvid.csv": "videoid,contentUrl,duration,page_dir,name\n7,https://x.org/7.mp4,PT1S,p1,a hill\n",
        "ucf.csv": "clip_name,clip_path,label\nv1,/v_Run_g08_c01.avi,Run\nv2,/v_Run_g08_c02.avi,Run\n",
        "openvid.csv": "video,caption,aesthetic score,fps\nxyz.mp4,a sea,5.1,24\n",
    }
    for name, text in tables.items():
        (tmp_path / name).write_text(text)
    found = {name: open_inputs([tmp_path / name]).sources for name in tables}
    trimmed, whole = found["kinetics.csv"]
    assert (trimmed.span, trimmed.caption, trimmed.url[-26:]) == (None, "dance", "dance/abc_000010_000020.mp4"[-26:])
    assert (whole.id, whole.span) == ("xyz#3000-5000", Span(3, 5))
    assert [(s.caption, s.group) for s in found["webvid.csv"]] == [("a hill", "7")]
    assert {s.group for s in found["ucf.csv"]} == {"v_Run_g08"}
    assert found["openvid.csv"][0].extra == {"aesthetic score": "5.1", "fps": "24"}


def test_parquet_and_jsonl(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="the curate extra")
    import pyarrow as pa

    put(tmp_path, "a.mp4", "b.mp4")
    columns = {"path": ["a.mp4", "b.mp4"], "captions": [["x", "y"], None], "id": ["one", "two"]}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    found = open_inputs([tmp_path / "t.parquet"])
    assert [(s.id, s.captions) for s in found.sources] == [("one", (("x", 0.5), ("y", 0.5))), ("two", ())]
    (tmp_path / "t.jsonl").write_text('{"path": "a.mp4", "captions": [["x", 2]]}\n[1]\n{"path": "b.mp4"}\n')
    found = open_inputs([tmp_path / "t.jsonl"])
    assert (ids(found), reasons(found)) == (["b.mp4"], [("t.jsonl:1", "bad_caption"), ("t.jsonl:2", "bad_row")])


def lerobot(folder, info, episodes):
    (folder / "meta").mkdir(parents=True)
    features = {"observation.images.top": {"dtype": "video"}, "action": {"dtype": "float32"}}
    (folder / "meta/info.json").write_text(json.dumps({"fps": 10, "features": features, **info}))
    (folder / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, episodes)))


def test_lerobot_one_file_per_episode(tmp_path):
    path = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    episodes = [{"episode_index": i, "tasks": ["lift  it"], "length": 5} for i in (1, 0, 2)]
    lerobot(tmp_path, {"video_path": path, "chunks_size": 2}, episodes)
    put(
        tmp_path,
        *(path.format(episode_chunk=i // 2, episode_index=i, video_key="observation.images.top") for i in (0, 2)),
    )
    found = open_inputs([tmp_path])
    assert ids(found) == ["episode_000000/observation.images.top", "episode_000002/observation.images.top"]
    assert (found.sources[0].caption, found.sources[0].group) == ("lift it", "episode_000000")
    assert [drop.reason for drop in found.refused] == ["missing"]


def test_lerobot_many_episodes_in_a_file(tmp_path):
    path = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    key = "videos/observation.images.top"
    rows = [
        {"episode_index": i, "tasks": ["a", "b"], "length": 5, f"{key}/chunk_index": 0, f"{key}/file_index": 1}
        | {f"{key}/from_timestamp": 2.0 * i, f"{key}/to_timestamp": 2.0 * i + 2}
        for i in range(2)
    ]
    lerobot(tmp_path, {"video_path": path}, rows)
    put(tmp_path, path.format(video_key="observation.images.top", chunk_index=0, file_index=1))
    found = open_inputs([tmp_path])
    assert [s.span for s in found.sources] == [Span(0, 2), Span(2, 4)]
    assert found.sources[0].captions == (("a", 0.5), ("b", 0.5))


def test_urls_through_fsspec(tmp_path):
    fsspec = pytest.importorskip("fsspec", reason="the curate extra")
    memory = fsspec.filesystem("memory")
    for name in ("clips/a.mp4", "clips/b/c.mp4"):
        memory.pipe(f"/vdm/{name}", name.encode())
    memory.pipe("/vdm/t.csv", b"path,caption\nclips/a.mp4,one\n")
    found = open_inputs(["memory://vdm/clips"])
    assert ids(found) == ["a.mp4", "b/c.mp4"]
    with local_path(found.sources[1]) as path:
        assert path.read_bytes() == b"clips/b/c.mp4"
    assert [(s.id, s.url) for s in open_inputs(["memory://vdm/t.csv"]).sources] == [
        ("clips/a.mp4", "memory://vdm/clips/a.mp4")
    ]
    with (
        pytest.raises(VideoError, match="no such file"),
        local_path(Source("x", "memory://vdm/x.mp4")),
    ):
        pass
    with pytest.raises(RunError, match="cannot be listed"):
        open_inputs(["nosuch://bucket/folder"])
