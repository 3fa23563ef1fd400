"""Other Beam runners: through a job server, as on Flink and Spark, curation publishes the bytes of the default."""

import pytest

from data_pipelines.curation.curate import curate
from data_pipelines.curation.graph import Where
from data_pipelines.curation.settings import CurateSettings, Recipe
from tests.media.footage import FPS, make_video, picture
from vdm_jax.errors import RunError

pytest.importorskip("apache_beam", reason="curation is a Beam graph")

SETTINGS = CurateSettings(height=16, width=16, frames=4, fps=FPS, codec="raw", val_fraction=0.3, cuts=False)
IN_THIS_PROCESS = "--environment_type=LOOPBACK"


@pytest.fixture(scope="module")
def job_server(tmp_path_factory):
    """Beam's own, in pure Python: its address as an option."""
    from apache_beam.runners.portability.local_job_service import LocalJobServicer

    servicer = LocalJobServicer(str(tmp_path_factory.mktemp("staged")))
    yield f"--job_endpoint=localhost:{servicer.start_grpc_server()}"
    servicer.stop()


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Five good files and a bad one."""
    folder = tmp_path_factory.mktemp("videos")
    for k in range(5):
        (folder / f"{k}.mp4").write_bytes(make_video([picture(k + i) for i in range(8 + k)]))
    (folder / "bad.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def default(videos, tmp_path_factory):
    """What the default runner publishes."""
    out = tmp_path_factory.mktemp("default") / "out"
    return curate([videos], out, Recipe(SETTINGS)), contents(out)


def contents(out):
    folders = (out, out.with_name("out.work"))
    return {p.relative_to(f): p.read_bytes() for f in folders for p in sorted(f.rglob("*")) if p.is_file()}


def test_a_job_server_gives_the_same_bytes(videos, default, job_server, tmp_path):
    where = Where("PortableRunner", 2, (job_server, IN_THIS_PROCESS))
    made = curate([videos], tmp_path / "out", Recipe(SETTINGS), where=where)
    first, files = default
    assert contents(tmp_path / "out") == files
    assert made.manifest == first.manifest
    assert [(letter.file, letter.reason) for letter in made.dropped] == [("bad.mp4", "unreadable")]
    assert set(made.spent.by_stage) == set(first.spent.by_stage) == {"digest", "probe", "encode"}


def test_what_stops_a_run_is_one_line(videos, job_server, tmp_path, monkeypatch):
    def full(*_):
        raise RunError("cannot write x: No space left on device")

    monkeypatch.setattr("data_pipelines.curation.records.Records.put", full)
    where = Where("PortableRunner", 1, (job_server, IN_THIS_PROCESS))
    with pytest.raises(RunError, match=r"^cannot write x: No space left on device$"):
        curate([videos], tmp_path / "out", Recipe(SETTINGS), where=where)


def test_a_job_server_that_is_not_there_is_one_line(videos, tmp_path):
    nowhere = ("--job_endpoint=localhost:1", "--job_server_timeout=1")
    where = Where("PortableRunner", 1, (*nowhere, IN_THIS_PROCESS))
    with pytest.raises(RunError, match=r"^PortableRunner: [^\n]+$"):
        curate([videos], tmp_path / "out", Recipe(SETTINGS), where=where)
