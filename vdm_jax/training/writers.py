"""Where metrics, samples and texts go: TensorBoard event files, `metrics.jsonl`, Weights & Biases.

The method names are those of `clu.metric_writers.MetricWriter`, which itself needs TensorFlow; these need only the
`tensorboard` wheel.  A video becomes an animated GIF in an image summary, which TensorBoard plays.

After a resume no curve forks: `metrics.jsonl` loses the lines beyond the restored step, and TensorBoard is told by
a session-start event that what came at or after the next step is void.
"""

import contextlib
import importlib.util
import io
import json
import os
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams import summary_v2 as hparams_summary
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from vdm_jax.config import flatten
from vdm_jax.errors import RunError
from vdm_jax.training.run_directory import RunDirectory, write_atomically


class MetricWriter(Protocol):
    """Takes what a run shows of itself; one that has no place for a kind of value leaves it to the others.

    Images are uint8 `[B, H, W, 3]`, videos uint8 `[B, T, H, W, 3]`, all on the host.
    """

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None: ...

    def write_videos(self, step: int, videos: Mapping[str, np.ndarray], fps: float = 8.0) -> None: ...

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None: ...

    def write_hparams(self, hparams: Mapping[str, Any]) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class JsonlWriter:
    """`metrics.jsonl`: one line `{"step": 10, "loss": 0.5, ...}` for each write of scalars.

    A line is one `write` of the system, so another process that reads along, or a kill, never sees half of one.  It
    holds numbers only: pictures, texts and the config have their own files in the run directory.

    Args:
      path: the file; made if absent.
      after: step the run goes on from (0 for a new one); later lines, and a torn last one, are removed.

    Raises:
      RunError: it cannot be written, or a line that is not the last one is damaged.
    """

    def __init__(self, path: str | os.PathLike, after: int = 0):
        self._path = Path(path)
        try:
            if self._path.exists():
                _truncate(self._path, after)
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise RunError(f"metrics: cannot write {self._path}: {error.strerror}") from None

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        line = json.dumps({"step": step} | {name: float(value) for name, value in scalars.items()}).encode() + b"\n"
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise RunError(f"metrics: cannot write {self._path}: {error.strerror}") from None
        if written != len(line):
            raise RunError(f"metrics: cannot write {self._path}: the disk is full")

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Images have no place in a file of numbers."""

    def write_videos(self, step: int, videos: Mapping[str, np.ndarray], fps: float = 8.0) -> None:
        """Videos have no place in a file of numbers."""

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Texts have no place in a file of numbers."""

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """`config.json` stands beside this file."""

    def flush(self) -> None:
        """Brings the lines, which other processes see at once, to the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)


class TensorBoardWriter:
    """TensorBoard event files in `directory`, without TensorFlow.

    Args:
      directory: the log directory; made if absent.
      after: step the run goes on from, 0 for a new one.

    Raises:
      RunError: it cannot be written (any method).
    """

    def __init__(self, directory: str | os.PathLike, after: int = 0):
        self._directory = directory
        with self._one_line():
            self._writer = EventFileWriter(os.fspath(directory))
        start = SessionLog(status=SessionLog.SessionStatus.START)
        self._add(Event(step=after + 1, session_log=start))

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=float(value)) for name, value in scalars.items()]
        self._add_summary(step, values)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        values = [_image(f"{name}/{i}", [one]) for name, batch in images.items() for i, one in enumerate(batch)]
        self._add_summary(step, values)

    def write_videos(self, step: int, videos: Mapping[str, np.ndarray], fps: float = 8.0) -> None:
        values = [_image(f"{name}/{i}", one, fps) for name, batch in videos.items() for i, one in enumerate(batch)]
        self._add_summary(step, values)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        self._add_summary(step, [_text(name, text) for name, text in texts.items()])

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        plain = {n: v if isinstance(v, (bool, int, float, str)) else json.dumps(v) for n, v in flatten(hparams).items()}
        self._add_summary(0, list(hparams_summary.hparams_pb(plain).value))

    def flush(self) -> None:
        with self._one_line():
            self._writer.flush()

    def close(self) -> None:
        with self._one_line():
            self._writer.close()

    def _add_summary(self, step: int, values: list) -> None:
        self._add(Event(step=step, summary=Summary(value=values)))

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        with self._one_line():
            self._writer.add_event(event)

    @contextlib.contextmanager
    def _one_line(self):
        try:
            yield
        except OSError as error:
            raise RunError(f"summaries: cannot write {self._directory}: {error.strerror}") from None


class WandbWriter:
    """Weights & Biases, for who has it installed.

    Args:
      project: name of the project.
      directory: the run directory; its name and path identify the run, so that a resumed one goes on in place.

    Raises:
      ValueError: wandb is not installed.
    """

    def __init__(self, project: str, directory: str | os.PathLike):
        if importlib.util.find_spec("wandb") is None:
            raise ValueError(f"wandb: {project!r} asked for, but wandb is not installed; `pip install wandb` or None")
        import wandb  # an optional package

        path = Path(directory).absolute()
        run_id = f"{path.name}-{zlib.crc32(os.fsencode(path)):08x}"
        self._wandb = wandb
        self._run = wandb.init(project=project, name=path.name, id=run_id, resume="allow", dir=os.fspath(path))

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        self._run.log({n: [self._wandb.Image(one) for one in batch] for n, batch in images.items()}, step=step)

    def write_videos(self, step: int, videos: Mapping[str, np.ndarray], fps: float = 8.0) -> None:
        shown = {
            name: [self._wandb.Video(io.BytesIO(_gif(one, fps)), format="gif") for one in batch]
            for name, batch in videos.items()
        }
        self._run.log(shown, step=step)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        self._run.log({name: self._wandb.Html(f"<pre>{text}</pre>") for name, text in texts.items()}, step=step)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        self._run.config.update(flatten(hparams), allow_val_change=True)

    def flush(self) -> None:
        """wandb sends from its own process."""

    def close(self) -> None:
        self._run.finish()


class MultiWriter:
    """Hands everything to several writers; with none of them it is the writer of a process that shows nothing."""

    def __init__(self, writers: Iterable[MetricWriter] = ()):
        self._writers = tuple(writers)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        for writer in self._writers:
            writer.write_images(step, images)

    def write_videos(self, step: int, videos: Mapping[str, np.ndarray], fps: float = 8.0) -> None:
        for writer in self._writers:
            writer.write_videos(step, videos, fps)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        for writer in self._writers:
            writer.write_texts(step, texts)

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        for writer in self._writers:
            writer.write_hparams(hparams)

    def flush(self) -> None:
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


def open_writer(run: RunDirectory, after: int, wandb: str | None = None) -> MultiWriter:
    """Opens the writers of a run; only process 0 writes.

    Args:
      run: the run directory.
      after: step the run goes on from, 0 for a new one.
      wandb: project name, or None.
    """
    if jax.process_index() != 0:
        return MultiWriter()
    writers: list[MetricWriter] = [JsonlWriter(run.metrics, after), TensorBoardWriter(run.tensorboard, after)]
    if wandb is not None:
        writers.append(WandbWriter(wandb, run.path))
    return MultiWriter(writers)


def _truncate(path: Path, after: int) -> None:
    """Keeps the lines up to step `after`; the file is replaced as a whole."""
    lines = path.read_text().splitlines()
    kept = []
    for number, line in enumerate(lines, start=1):
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            if number < len(lines):
                raise RunError(f"metrics: line {number} of {path} is damaged; repair or remove it") from None
            continue  # torn by a kill
        if step <= after:
            kept.append(line + "\n")
    write_atomically(path, "".join(kept))


def _gif(frames: np.ndarray, fps: float) -> bytes:
    """uint8 `[T, H, W, 3]` as an animated GIF that loops."""
    pictures = [Image.fromarray(np.asarray(frame, np.uint8)) for frame in frames]
    buffer = io.BytesIO()
    milliseconds = max(20, round(1000 / fps))  # browsers slow anything under 20 ms down to 100
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)
    return buffer.getvalue()


def _png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(frame, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _image(tag: str, frames: Any, fps: float | None = None) -> Summary.Value:
    height, width, channels = np.shape(frames[0])
    encoded = _png(frames[0]) if fps is None else _gif(frames, fps)
    picture = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=encoded)
    return Summary.Value(tag=tag, image=picture)


def _text(tag: str, text: str) -> Summary.Value:
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype=DT_STRING, string_val=[text.encode()], tensor_shape=shape)
    return Summary.Value(tag=tag, metadata=text_metadata.create_summary_metadata(tag, ""), tensor=tensor)
