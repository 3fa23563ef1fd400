"""What a curation run is asked for, and the steps that follow from it.

Every step knows those whose results it reads (`Stage.after`), so that what is stored stays valid for as long as
nothing that it depends on has changed:

    digest   probe --+-- cuts -- spans --+-- one for each scorer
                     |                   +-- captions of a model
                     |                          (fingerprint) -- near duplicates, of all sources together
                     +-- encode

An encoded clip depends on its span and on the shape of clips alone, so filters may change without decoding anything
but the clips that are new.
"""

import dataclasses

from data_pipelines.curation import cuts as cutting
from data_pipelines.curation import probe
from data_pipelines.curation.caption_files import WORDS
from data_pipelines.curation.captions import Captioner
from data_pipelines.curation.cuts import CutSettings
from data_pipelines.curation.filters import Selection, parse_filter
from data_pipelines.curation.inputs.rows import TABLE_SUFFIXES
from data_pipelines.curation.probe import Facts
from data_pipelines.curation.scores import duplicates
from data_pipelines.curation.scores.fingerprint import Fingerprint
from data_pipelines.curation.scores.protocol import Scorer
from data_pipelines.curation.scores.sampling import SampleSettings
from data_pipelines.curation.spans import SpanSettings
from data_pipelines.curation.stage import Stage
from data_pipelines.shards.schema import CODECS
from vdm_jax.errors import did_you_mean
from vdm_jax.media.video import VideoError

SPANS_VERSION = 1
ENCODE_VERSION = 1
_MILLISECOND = 0.001


@dataclasses.dataclass(frozen=True)
class ClipSettings:
    """The clips of a set: their shape, and how they are stored.

    Attributes:
      height, width: pixels.
      frames: frames per clip.
      fps: frames per second to resample to; 0 keeps stored frames as they are, whatever their times.
      codec: see `shards.schema.CODECS`.
      crf: quality of lossy codecs, 0 (best) to 51.
      crop_bars: black bars are cut off before a clip is scaled; needs the scorer `bars`.
    """

    height: int = 64
    width: int = 64
    frames: int = 16
    fps: float = 8.0
    codec: str = "h264"
    crf: int = 18
    crop_bars: bool = False

    def __post_init__(self):
        for name in ("height", "width", "frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not at least 1")
        if not 0 <= self.fps < float("inf"):
            raise ValueError(f"fps: {self.fps!r} is not a number from 0 on")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf: {self.crf!r} is not within 0..51")
        if self.codec not in CODECS:
            raise ValueError(f"codec: {did_you_mean(self.codec, CODECS)}")

    def rate(self, facts: Facts) -> float:
        """Frames per second of the clips of a file.

        Raises:
          VideoError: all frames are to be kept, and the file does not say its rate.
        """
        if not (self.fps or facts.fps):
            raise VideoError("no_rate", "does not say its frame rate; set fps")
        return self.fps or facts.fps


@dataclasses.dataclass(frozen=True)
class CurateSettings:
    """All of a run but its inputs and its scorers.

    Attributes:
      height, width, frames, fps, codec, crf, crop_bars: see `ClipSettings`.
      stride: frames between the starts of two clips; 0 means `frames`, so that clips do not overlap.
      cuts: whether shots are told apart, so that no clip contains a cut.
      margin: seconds kept away from every cut.
      keyframes: clips start on keyframes of their source.
      hold_out, val_fraction, max_clips_per_source, seed: see `filters.Selection`.
      captions: `beside` reads NAME.txt or NAME.json next to NAME.mp4 ("" where there is none), `required` drops videos
        without, `none` ignores such files; or a table of captions.
      filters: rules such as `motion>=0.5`, see `filters.parse_filter`.
    """

    height: int = 64
    width: int = 64
    frames: int = 16
    fps: float = 8.0
    stride: int = 0
    cuts: bool = True
    margin: float = 0.1
    keyframes: bool = False
    hold_out: str = "auto"
    val_fraction: float = 0.1
    max_clips_per_source: int = 0
    codec: str = "h264"
    crf: int = 18
    crop_bars: bool = False
    captions: str = "beside"
    filters: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self):
        if self.stride < 0:
            raise ValueError(f"stride: {self.stride!r} is not at least 0")
        if not 0 <= self.margin < float("inf"):
            raise ValueError(f"margin: {self.margin!r} is not a number of seconds from 0 on")
        if self.captions not in WORDS and not self.captions.lower().endswith(TABLE_SUFFIXES):
            raise ValueError(f"captions: {did_you_mean(self.captions, WORDS)}, or a table ({' '.join(TABLE_SUFFIXES)})")
        _ = self.clip, self.selection  # each checks what is its own

    @property
    def clip(self) -> ClipSettings:
        """What each clip shall be."""
        return ClipSettings(**{f.name: getattr(self, f.name) for f in dataclasses.fields(ClipSettings)})

    @property
    def selection(self) -> Selection:
        """Which clips are used."""
        names = ("max_clips_per_source", "hold_out", "val_fraction", "seed")
        rules = tuple(parse_filter(rule) for rule in self.filters)
        return Selection(rules, **{name: getattr(self, name) for name in names})


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is done with each source: settings, scorers and captioner, as steps.

    Attributes:
      settings: of the run.
      scorers: what is measured on every clip.
      captioner: a model that says what clips show, or None.
      looking: what scorers and captioner see.
      cutting: how cuts are looked for.
    """

    settings: CurateSettings
    scorers: tuple[Scorer, ...] = ()
    captioner: Captioner | None = None
    looking: SampleSettings = dataclasses.field(default_factory=SampleSettings)
    cutting: CutSettings = dataclasses.field(default_factory=CutSettings)

    def __post_init__(self):
        names = [scorer.name for scorer in self.scorers]
        if len(set(names)) != len(names):
            raise ValueError(f"scorers: {next(n for n in names if names.count(n) > 1)!r} is there twice")
        if self.settings.crop_bars and "bars" not in names:
            raise ValueError("crop_bars: needs the scorer 'bars', which finds them")

    digest = Stage("digest", 1)
    probe = Stage("probe", probe.VERSION)

    @property
    def cuts(self) -> Stage:
        """Where shots end."""
        return Stage("cuts", cutting.VERSION, self.cutting, (self.probe,))

    @property
    def spans(self) -> Stage:
        """Which stretches are clips; not stored, for it takes no time."""
        names = ("frames", "fps", "stride", "margin", "keyframes")
        after = (self.probe, self.cuts) if self.settings.cuts else (self.probe,)
        return Stage("spans", SPANS_VERSION, {name: getattr(self.settings, name) for name in names}, after)

    def score(self, scorer: Scorer) -> Stage:
        """The numbers of one scorer."""
        settings = {"looking": self.looking, **scorer_settings(scorer)}
        return Stage(f"score_{scorer.name}", scorer.version, settings, (self.spans,))

    @property
    def duplicates(self) -> Stage | None:
        """Which clips are alike, where fingerprints are taken; not stored, for it is of the whole corpus."""
        taken = [self.score(scorer) for scorer in self.scorers if isinstance(scorer, Fingerprint)]
        return Stage("duplicates", duplicates.VERSION, None, tuple(taken)) if taken else None

    @property
    def caption(self) -> Stage:
        """What the captioner says."""
        assert self.captioner is not None
        settings = {"looking": self.looking, "name": self.captioner.name, "version": self.captioner.version}
        return Stage("caption", 1, settings, (self.spans,))

    @property
    def encode(self) -> Stage:
        """Clips as they are stored."""
        return Stage("encode", ENCODE_VERSION, self.settings.clip, (self.probe,))

    def stages(self) -> tuple[Stage, ...]:
        """All steps that this recipe takes, in order."""
        cuts = (self.cuts,) if self.settings.cuts else ()
        alike = (self.duplicates,) if self.duplicates is not None else ()
        captions = (self.caption,) if self.captioner is not None else ()
        return (self.probe, *cuts, self.spans, *map(self.score, self.scorers), *alike, *captions, self.encode)

    def span_settings(self, facts: Facts) -> SpanSettings:
        """How clips are laid into the shots of a file.

        A clip needs the time at which its last frame is shown, and no more: the rest of its last frame may lack.

        Raises:
          VideoError: the file does not say its rate, where that is needed.
        """
        asked = self.settings
        rate = asked.clip.rate(facts)
        shortest = (asked.frames - 1) / rate + _MILLISECOND
        longest = max(asked.frames / rate, shortest)
        return SpanSettings(shortest, longest, (asked.stride or asked.frames) / rate, asked.margin, asked.keyframes)


def scorer_settings(scorer: Scorer) -> dict:
    """The fields of a scorer that make its numbers what they are; its columns only describe them."""
    return {f.name: getattr(scorer, f.name) for f in dataclasses.fields(scorer) if f.name != "columns" and f.compare}
