"""Digests: whatever happens to a file after it was written is seen, and named."""

import hashlib

import pytest
from etils import epath

from vdm_jax.training import digests


@pytest.fixture
def step(tmp_path):
    """A step as it looks after `finalize`: two items, their digests, and Orbax' own notes at the top."""
    for name, content in {"state/d/one": b"1" * 5000, "state/_METADATA": b"{}", "meta/metadata": b"{}"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "_CHECKPOINT_METADATA").write_bytes(b"{}")
    (tmp_path / digests.ITEM).mkdir()
    digests.DigestHandler().finalize(epath.Path(tmp_path / digests.ITEM))
    return tmp_path


def test_it_is_the_sha256_that_sha256sum_prints(tmp_path):
    content = bytes(range(256)) * 40_000  # more than two blocks
    (tmp_path / "x").write_bytes(content)
    assert digests.digest_file(tmp_path / "x") == digests.FileDigest(hashlib.sha256(content).hexdigest(), len(content))


def test_every_file_of_every_item_is_covered(step):
    assert set(digests.read_digests(step)) == {"state/d/one", "state/_METADATA", "meta/metadata"}
    assert digests.find_damage(step) is None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: f.write_bytes(b"1" * 4999 + b"0"), "state/d/one: its content is not what was written"),
        (lambda f: f.write_bytes(b"1" * 4999), "state/d/one: 4999 bytes, 5000 were written"),
        (lambda f: f.write_bytes(b""), "state/d/one: 0 bytes, 5000 were written"),
        (lambda f: f.unlink(), "state/d/one: missing"),
        (lambda f: (f.unlink(), f.mkdir()), "state/d/one: unreadable (Is a directory)"),
    ],
)
def test_damage_is_named(step, damage, said):
    damage(step / "state/d/one")
    assert digests.find_damage(step) == said


@pytest.mark.parametrize("content", ["", "[]", "{}", "{", '{"a": 1}', '{"a": {"sha": "x"}}'])
def test_a_damaged_digest_file_is_damage(step, content):
    (step / "digests/digests.json").write_text(content)
    assert digests.find_damage(step).startswith("digests/digests.json: unreadable")


def test_a_missing_digest_file_is_damage(step):
    (step / "digests/digests.json").unlink()
    assert digests.find_damage(step) == "digests/digests.json: unreadable (FileNotFoundError)"


def test_processes_that_share_the_reading_see_all_damage_between_them(step):
    (step / "meta/metadata").write_bytes(b"[]")
    found = [digests.find_damage(step, share, 3) for share in range(3)]
    assert [f for f in found if f] == ["meta/metadata: its content is not what was written"]


def test_digests_are_the_last_to_be_finalized(step):
    (step / "state").rename(step / "state.orbax-checkpoint-tmp")
    with pytest.raises(AssertionError, match="must be finalized last"):
        digests.DigestHandler().finalize(epath.Path(step / digests.ITEM))
