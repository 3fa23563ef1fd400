"""The scorers that a run takes unless it is told otherwise: all that need no weights."""

from data_pipelines.curation.scores.bars import Bars
from data_pipelines.curation.scores.exposure import Exposure
from data_pipelines.curation.scores.fingerprint import Fingerprint
from data_pipelines.curation.scores.motion import Motion
from data_pipelines.curation.scores.overlay import Overlay
from data_pipelines.curation.scores.protocol import Scorer
from data_pipelines.curation.scores.sharpness import Sharpness
from data_pipelines.curation.scores.steadiness import Steadiness
from data_pipelines.curation.scores.stillness import Stillness
from data_pipelines.curation.scores.text import TextArea
from vdm_jax.errors import did_you_mean

SCORERS: tuple[Scorer, ...] = (
    *(Motion(), Overlay(), Stillness(), Sharpness(), Exposure(), Bars(), TextArea(), Steadiness(), Fingerprint()),
)


def choose_scorers(words: str) -> tuple[Scorer, ...]:
    """`all`, `none`, or names with commas between them.

    Raises:
      ValueError: an unknown name, or one that is given twice.
    """
    if words in ("all", "none"):
        return SCORERS if words == "all" else ()
    known = {scorer.name: scorer for scorer in SCORERS}
    names = [word.strip() for word in words.split(",")]
    for name in names:
        if name not in known:
            raise ValueError(f"scores: {did_you_mean(name, ('all', 'none', *known))}")
        if names.count(name) > 1:
            raise ValueError(f"scores: {name!r} is given twice")
    return tuple(known[name] for name in names)
