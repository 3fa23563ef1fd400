"""What published pipelines do to a prompt before it is tokenized."""

import html
import re


def as_it_is(prompt: str) -> str:
    """Stable Diffusion, AnimateDiff, ModelScope, CogVideoX."""
    return prompt


def wan(prompt: str) -> str:
    """Wan: HTML entities resolved (twice, as in scraped captions), every run of white space one space.

    Theirs also repairs broken encodings where `ftfy` is installed; for text that is not broken it changes nothing.
    """
    return re.sub(r"\s+", " ", html.unescape(html.unescape(prompt))).strip()


def latte(prompt: str) -> str:
    """Latte without `clean_caption`: lower case, no white space around."""
    return prompt.lower().strip()
