"""Features of each frame's sound, of samples that the set stores: a log-mel spectrogram with one column a frame.

    a_t[f] = log(eps + sum_k M[f, k] |DFT(hann * samples around the middle of frame t)|^2)

Triangular filters M, spaced evenly in mel = 2595 log10(1 + Hz / 700) (D. O'Shaughnessy 1987).  The clip and its samples
are equally long, so samples / frames is how many belong to a frame.
"""

import dataclasses
import functools

import numpy as np

from data_pipelines.loading.fields.field import Cut
from vdm_jax.errors import RunError

_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class Audio:
    """float32 [T, bands], of the stored array `audio`, the samples [S] or [S, channels] of the whole clip.

    Channels are averaged, so that the mirrored clip sounds the same.

    Attributes:
      bands: filters.
    """

    bands: int = 32
    name: str = "audio"
    needs: tuple[str, ...] = ("audio",)
    whole_rate: bool = False

    def check(self) -> None:
        """Nothing has to be installed."""

    def compute(self, cut: Cut) -> np.ndarray:
        """See `Field.compute`."""
        samples = cut.arrays["audio"]
        if samples.ndim not in (1, 2) or len(samples) < cut.frames or samples.shape[-1] == 0:
            raise RunError(f"field 'audio': samples {list(samples.shape)} for a clip of {cut.frames} frames")
        samples = samples.reshape(len(samples), -1).mean(1)
        each = len(samples) / cut.frames
        window = 2 ** max(5, int(np.ceil(np.log2(2 * each))))
        padded = np.pad(samples.astype(np.float32), window)
        middles = ((cut.numbers + 0.5) * each).astype(np.int64) + window
        pieces = padded[middles[:, None] + np.arange(-window // 2, window // 2)]
        power = np.abs(np.fft.rfft(pieces * np.hanning(window))) ** 2 / window
        return np.log(_EPSILON + power @ _filters(self.bands, window).T).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _filters(bands: int, window: int) -> np.ndarray:
    """[bands, window / 2 + 1]; the highest frequency stands for 8 kHz, so shapes do not depend on the rate."""
    top = 8000.0
    mel = np.linspace(0, 2595 * np.log10(1 + top / 700), bands + 2)
    edges = 700 * (10 ** (mel / 2595) - 1) / top * (window // 2)
    bins = np.arange(window // 2 + 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - low) / np.maximum(middle - low, 1), (high - bins) / np.maximum(high - middle, 1)
    return np.maximum(0, np.minimum(rising, falling))
