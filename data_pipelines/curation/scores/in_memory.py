"""A clip that is in memory already, as scorers see it: what `sampling.sample_spans` makes of a span of a file."""

import numpy as np

from data_pipelines.curation.scores.opencv import import_opencv
from data_pipelines.curation.scores.protocol import Edges, Sample
from data_pipelines.curation.scores.reducing import THUMB
from data_pipelines.curation.scores.sampling import NEARLY_ALL, TICK, SampleSettings, wanted_times
from data_pipelines.curation.source import Span


def sample_of(video: np.ndarray, fps: float, settings: SampleSettings | None = None) -> Sample:
    """The sample of a whole clip.

    Args:
      video: RGB uint8 [T, H, W, 3].
      fps: of it.
      settings: as of a file without keyframes; by default those of a file.

    Raises:
      ValueError: another shape or dtype, or a rate that is none.
      RunError: OpenCV is not installed.
    """
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
        raise ValueError(f"video: expected uint8 [T, H, W, 3], got {video.dtype} {list(video.shape)}")
    if not 0 < fps < np.inf:
        raise ValueError(f"fps: {fps!r} must be a rate above 0")
    cv2, settings = import_opencv(), settings or SampleSettings()
    span = Span(0.0, len(video) / fps)
    wanted = wanted_times(span, (), settings)
    shown = sorted({min(int(time * fps + TICK), len(video) - 1) for time in wanted})
    luma = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in video]
    lines = [np.stack([luma[k].mean(1), luma[k].std(1)], 1) for k in shown]
    columns = [np.stack([luma[k].mean(0), luma[k].std(0)], 1) for k in shown]
    edges = Edges(*(np.float32(np.percentile(found, NEARLY_ALL, axis=0)) for found in (lines, columns)))
    return Sample(
        frames=np.stack([_reduced(video[k], settings.side / min(video.shape[1:3])) for k in shown]),
        times=np.array(shown) / fps,
        fps=settings.rate(span),
        thumbs=np.stack([_reduced(picture, THUMB / max(video.shape[1:3])) for picture in luma]),
        thumb_times=np.arange(len(video)) / fps,
        edges=edges,
        height=video.shape[1],
        width=video.shape[2],
    )


def _reduced(picture: np.ndarray, scale: float) -> np.ndarray:
    """Never enlarged."""
    cv2 = import_opencv()
    if scale >= 1:
        return np.ascontiguousarray(picture)
    size = tuple(max(1, round(side * scale)) for side in picture.shape[1::-1])
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
