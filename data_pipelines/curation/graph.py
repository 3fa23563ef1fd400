"""Work on every source, as an Apache Beam graph: one machine, or as many as the runner has.

    sources -- work on each --+-- done: counted, with the CPU time of each step (Beam metrics)
                              +-- dead letters: written down, one file for each source

Elements are small: a source goes in as one line of JSON, and everything that is worked out lies on disk (`Records`),
which the workers of a distributed runner must share.  A source that cannot be used is a dead letter and never stops
the rest; what stops everything is the disk, a missing package, or Ctrl-C.

The graph is run twice: to examine sources and, when it is decided which clips are used, to encode those.  On one
machine the sources of a bundle are shared by as many threads as there are cores: decoding, OpenCV and encoding all let
go of Python's lock.
"""

import concurrent.futures
import contextlib
import dataclasses
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from data_pipelines.curation.encode import Encoder, Job
from data_pipelines.curation.examine import Examiner, Spent
from data_pipelines.curation.records import Records
from data_pipelines.curation.source import Source
from data_pipelines.curation.stage import Stage, fingerprint
from data_pipelines.shards.manifest import Dropped
from vdm_jax.errors import RunError, did_you_mean
from vdm_jax.media.video import VideoError

LETTERS = Stage("dead_letters", 1)
DIRECT = "DirectRunner"
RUNNERS = (DIRECT, "DataflowRunner", "FlinkRunner", "SparkRunner", "PortableRunner")
Progress = Callable[[int, int, str], None]
_TOLD = re.compile(rf"{RunError.__module__}\.RunError: (.+?)(?: \[while running|\\n|\n|$)")
_MICRO = 1_000_000  # Beam counts in whole numbers
_listeners: dict[str, Callable[[str], None]] = {}  # progress, for workers that live in this process


@dataclasses.dataclass(frozen=True)
class Where:
    """Where a graph runs.

    Attributes:
      runner: one of `RUNNERS`.
      workers: threads of each worker process; 0 is one for each core.
      options: Beam's own, as on its command line: `--flink_master=...`.
    """

    runner: str = DIRECT
    workers: int = 0
    options: tuple[str, ...] = ()

    def __post_init__(self):
        if self.runner not in RUNNERS:
            raise ValueError(f"runner: {did_you_mean(self.runner, RUNNERS)}")
        if self.workers < 0:
            raise ValueError(f"workers: {self.workers!r} is not at least 0")

    @property
    def threads(self) -> int:
        """Threads of each worker process."""
        return self.workers or len(os.sched_getaffinity(0))


class Examine:
    """What `run_each` does with a line that is a source: `Examiner.examine`."""

    def __init__(self, examiner: Examiner):
        self._examiner = examiner

    def __call__(self, line: str) -> Spent:
        return self._examiner.examine(Source.from_json(line))

    def name(self, line: str) -> str:
        """The id of the source."""
        return Source.from_json(line).id


class Encode:
    """What `run_each` does with a line that is a job: `Encoder.encode`, with the facts that are stored."""

    def __init__(self, encoder: Encoder, examiner: Examiner):
        self._encoder, self._examiner = encoder, examiner

    def __call__(self, line: str) -> Spent:
        job = Job.from_json(line)
        known = self._examiner.read(job.source)
        if known is None or known.digest != job.digest:
            raise VideoError("changed", f"{job.source.url}: has changed while it was worked on")
        return self._encoder.encode(job, known.facts)

    def name(self, line: str) -> str:
        """The id of the source."""
        return Job.from_json(line).source.id


def run_each(
    work: Examine | Encode, lines: Sequence[str], records: Records, where: Where, progress: Progress | None = None
) -> tuple[Spent, list[Dropped]]:
    """Does work on every line.

    Args:
      work: called with a line; a VideoError makes it a dead letter.
      lines: the elements.
      records: where dead letters are written.
      where: runner and threads.
      progress: called with (done, all, name) after each line, where workers are threads of this process.

    Returns:
      What it took, and the dead letters by name.

    Raises:
      RunError: Apache Beam is not installed, or the run failed as a whole.
      KeyboardInterrupt: Ctrl-C.
    """
    beam = import_beam()
    shutil.rmtree(records.folder / LETTERS.folder, ignore_errors=True)
    listener = f"{os.getpid()}-{len(_listeners)}-{id(work)}"
    if progress is not None:
        done = iter(range(1, len(lines) + 1))
        _listeners[listener] = lambda name: progress(next(done), len(lines), name)
    try:
        with _one_line_errors(where):
            pipeline = beam.Pipeline(options=_options(where))
            every = pipeline | "Sources" >> beam.Create(list(lines)) | "Spread" >> beam.Reshuffle()
            each = _each(beam)(work, where.threads, listener)
            results = every | "Work" >> beam.ParDo(each).with_outputs("dead", main="done")
            results.dead | "Letters" >> beam.Map(_write_letter, records)
            result = pipeline.run()
            _wait(result)
    finally:
        _listeners.pop(listener, None)
    return _spent(result), _letters(records, [work.name(line) for line in lines])


def _wait(result: Any) -> None:
    """Until a job is done; whoever stops waiting stops the job, wherever it runs."""
    try:
        result.wait_until_finish()
    except KeyboardInterrupt:
        with contextlib.suppress(Exception):
            result.cancel()
        raise


def import_beam() -> Any:
    """The package `apache_beam`, without what it says while it is imported.

    Raises:
      RunError: it is not installed.
    """
    root = logging.getLogger()
    before = list(root.handlers)
    logging.disable(logging.WARNING)
    try:
        import apache_beam
    except ImportError:
        raise RunError(
            "vdm curate needs Apache Beam, OpenCV and PySceneDetect: pip install 'vdm_jax[curate]'"
        ) from None
    finally:
        logging.disable(logging.NOTSET)
        root.handlers[:] = before
    return apache_beam


def _each(beam: Any) -> type:
    """The DoFn; made here because Beam is imported only when something runs."""

    class Each(beam.DoFn):
        """Hands the lines of a bundle to threads, and gives back what became of them."""

        def __init__(self, work: Examine | Encode, threads: int, listener: str):
            self._work, self._threads, self._listener = work, threads, listener

        def start_bundle(self):
            self._pool = concurrent.futures.ThreadPoolExecutor(self._threads)
            self._futures = {}

        def process(self, line):
            self._futures[self._pool.submit(self._work, line)] = line

        def finish_bundle(self):
            try:
                for future in concurrent.futures.as_completed(self._futures):
                    name = self._work.name(self._futures.pop(future))
                    try:
                        _count(beam, future.result())
                        tag, value = "done", name
                    except VideoError as error:
                        tag, value = "dead", (name, error.reason, str(error))
                    _tell(self._listener, name)
                    shown = beam.transforms.window.GlobalWindows.windowed_value(value)
                    yield beam.pvalue.TaggedOutput(tag, shown) if tag == "dead" else shown
            finally:
                self._pool.shutdown(wait=False, cancel_futures=True)

    return Each


def _tell(listener: str, name: str) -> None:
    """Progress; a function of this module, for the class above travels by value and would bring its own dict."""
    if tell := _listeners.get(listener):
        tell(name)


def _count(beam: Any, spent: Spent) -> None:
    for name, (cpu, video) in spent.by_stage.items():
        beam.metrics.Metrics.counter("cpu", name).inc(round(cpu * _MICRO))
        beam.metrics.Metrics.counter("video", name).inc(round(video * _MICRO))


def _spent(result: Any) -> Spent:
    """What the counters say; a runner that keeps none gives nothing."""
    try:
        counters = result.metrics().query()["counters"]
    except (NotImplementedError, AttributeError):
        return Spent()
    found: dict[tuple[str, str], float] = {}
    for counter in counters:
        key = counter.key.metric.namespace, counter.key.metric.name
        found[key] = found.get(key, 0.0) + (counter.result or 0) / _MICRO  # None: a runner may leave zeros out
    spent = Spent()
    for name in sorted(name for kind, name in found if kind == "cpu"):
        spent.add(name, found["cpu", name], found.get(("video", name), 0.0))
    return spent


def _write_letter(letter: tuple[str, str, str], records: Records) -> None:
    records.write(LETTERS, fingerprint(letter[0]), list(letter))


def _letters(records: Records, names: Sequence[str]) -> list[Dropped]:
    found = (records.read(LETTERS, fingerprint(name)) for name in names)
    return sorted((Dropped(*letter) for letter in found if letter is not None), key=lambda letter: letter.file)


def _options(where: Where) -> Any:
    from apache_beam.options.pipeline_options import PipelineOptions

    return PipelineOptions([f"--runner={where.runner}", *where.options])


@contextlib.contextmanager
def _one_line_errors(where: Where) -> Iterator[None]:
    """Beam logs errors with their traceback, and raises them as its own: here they are again what they were."""
    logger = logging.getLogger("apache_beam")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except BaseException as error:
        for cause in _chain(error):
            if isinstance(cause, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            if type(cause) is RunError:
                raise RunError(str(cause).partition(" [while running")[0]) from None
        if told := _TOLD.search(str(error)):  # by a worker elsewhere, of whose errors only the text arrives
            raise RunError(told[1]) from None
        if isinstance(error, Exception):
            last = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise RunError(f"{where.runner}: {last[-1].strip()}") from error
        raise
    finally:
        logger.setLevel(level)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, the first cause first."""
    chain, seen = [], set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        chain.append(error)
        error = error.__cause__ or error.__context__
    yield from reversed(chain)
