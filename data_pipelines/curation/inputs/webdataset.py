"""WebDataset tars: samples are members with one key, `KEY.mp4`, `KEY.txt`, `KEY.json` ..., side by side.

A tar holds its members whole, so a source is a range of the tar's bytes and nothing is unpacked.  The key is the path
up to the first dot of its last part.  `.txt` is a caption; `.json` may hold `caption` or `text`, or `captions`: a list
of sentences, or of [sentence, probability].
"""

import json
import posixpath
import re
import tarfile
from typing import Any

from data_pipelines.curation.inputs.found import Found, InputSettings, wanted
from data_pipelines.curation.source import Source, kind_of, open_url
from data_pipelines.shards.manifest import Dropped
from vdm_jax.errors import RunError

BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
TEXT_BYTES = 1 << 20  # a longer caption is no caption


def brace_range(name: str) -> list[str]:
    """`a-{000..002}.tar -> a-000.tar, a-001.tar, a-002.tar`; a name without braces is itself."""
    found = BRACES.search(name)
    if not found:
        return [name]
    first, last = found[1], found[2]
    numbers = range(int(first), int(last) + 1)
    return [n for i in numbers for n in brace_range(f"{name[: found.start()]}{i:0{len(first)}}{name[found.end() :]}")]


def tar_sources(url: str, settings: InputSettings) -> Found:
    """The videos of one tar; ids are `TAR/KEY.mp4`, with the tar's name without its suffix.

    Args:
      url: a path or URL; the tar itself must not be compressed, or its members could not be reached.
      settings: whether pictures count.

    Raises:
      RunError: it cannot be opened, or is no uncompressed tar.
    """
    refused: list[Dropped] = []
    shard = posixpath.basename(url).removesuffix(".tar")
    try:
        with open_url(url) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            members = _members(tar, url, refused)
            texts = {name: _text(tar, member, f"{shard}/{name}", refused) for name, member in members.items()}
    except tarfile.TarError as error:
        raise RunError(f"{url}: not an uncompressed tar ({error})") from None
    except OSError as error:
        raise RunError(f"{url}: {error.strerror or error}") from None
    taken = wanted({kind_of(name) for name in members} - {""}, settings.images)
    bad = {refusal.file for refusal in refused}
    sources, ignored = [], {}
    for name, member in members.items():
        key, suffix = _split(name)
        if kind_of(name) in taken and not {f"{shard}/{name}", f"{shard}/{key}.txt", f"{shard}/{key}.json"} & bad:
            sources.append(_source(url, shard, name, member, texts))
        elif kind_of(name) not in taken and suffix not in ("txt", "json"):
            ignored[f".{suffix}"] = ignored.get(f".{suffix}", 0) + 1
    return Found(tuple(sources), tuple(refused), tuple(sorted(ignored.items())))


def _members(tar: tarfile.TarFile, url: str, refused: list[Dropped]) -> dict[str, tarfile.TarInfo]:
    """The files of a tar by name, in its order; a tar that breaks off gives those before the break."""
    members: dict[str, tarfile.TarInfo] = {}
    size = tar.fileobj.seek(0, 2)
    tar.fileobj.seek(0)
    try:
        for member in tar:
            if not member.isfile() or posixpath.basename(member.name).startswith("."):
                continue
            name = member.name.removeprefix("./")
            if member.offset_data + member.size > size:
                raise tarfile.ReadError("unexpected end of data")
            if name in members:
                raise RunError(f"{url}: two members are named {name!r}")
            members[name] = member
    except tarfile.ReadError as error:
        if not members:
            raise
        refused.append(Dropped(url, "truncated", f"{url}: breaks off after {list(members)[-1]} ({error})"))
    return members


def _split(name: str) -> tuple[str, str]:
    folder, last = posixpath.split(name)
    stem, _, suffix = last.partition(".")
    return posixpath.join(folder, stem), suffix.lower()


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, refused: list[Dropped]) -> Any:
    """What a `.txt` (its words) or `.json` (its object) says; None for other members and for unusable ones."""
    suffix = _split(name)[1]
    if suffix not in ("txt", "json") or member.size > TEXT_BYTES:
        return None
    try:
        text = tar.extractfile(member).read().decode("utf-8-sig")
        return " ".join(text.split()) if suffix == "txt" else dict(json.loads(text))
    except UnicodeDecodeError as error:
        refused.append(Dropped(name, "bad_caption", f"{name}: not UTF-8 text (byte {error.start})"))
    except (ValueError, TypeError) as error:
        refused.append(Dropped(name, "bad_caption", f"{name}: not a JSON object ({error})"))
    return None


def _source(url: str, shard: str, name: str, member: tarfile.TarInfo, texts: dict[str, Any]) -> Source:
    key = _split(name)[0]
    fields = texts.get(f"{key}.json") or {}
    caption = texts.get(f"{key}.txt") or fields.get("caption") or fields.get("text") or ""
    extra = {k: v for k, v in fields.items() if k not in ("caption", "captions", "text")}
    return Source(
        id=f"{shard}/{name}",
        url=url,
        kind=kind_of(name),
        caption=str(caption),
        captions=weighed(fields.get("captions") or ()),
        offset=member.offset_data,
        size=member.size,
        extra=extra,
    )


def weighed(captions: Any) -> tuple[tuple[str, float], ...]:
    """Sentences, or [sentence, probability] pairs -> pairs; sentences alone are equally likely.

    Raises:
      ValueError: neither, or probabilities that are not positive numbers.
    """
    if not isinstance(captions, (list, tuple)):
        raise ValueError(f"captions: {captions!r} is not a list")
    pairs = [(c, 1 / len(captions)) if isinstance(c, str) else c for c in captions]
    try:
        out = tuple((" ".join(str(text).split()), float(probability)) for text, probability in pairs)
    except (TypeError, ValueError):
        raise ValueError(f"captions: {captions!r} is neither sentences nor [sentence, probability] pairs") from None
    if any(not 0 < probability <= 1 for _, probability in out):
        raise ValueError(f"captions: {captions!r} has a probability that is not within (0, 1]")
    return out
