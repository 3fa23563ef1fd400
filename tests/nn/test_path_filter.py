import pytest

from vdm_jax.nn.path_filter import matches, select

PATHS = [
    ("backbone", "blocks", "temporal", "qkv", "kernel"),
    ("backbone", "blocks", "spatial", "qkv", "kernel"),
    ("backbone", "blocks", "spatial", "qkv", "lora_a"),
    ("backbone", "blocks", "norm", "scale"),
    ("text", "blocks", "norm", "scale"),
]


@pytest.mark.parametrize(("pattern", "chosen"), [
    ("*", {0, 1, 2, 3, 4}),
    ("temporal", {0}),
    ("lora_*", {2}),
    ("blocks/norm", {3, 4}),
    ("backbone/*/norm", {3}),
    ("spatial/kernel", set()),
])  # fmt: skip
def test_components_stand_in_a_row(pattern, chosen):
    assert {i for i, path in enumerate(PATHS) if matches(path, pattern)} == chosen


@pytest.mark.parametrize(("patterns", "chosen"), [
    (("temporal", "lora_a"), {0, 2}),
    (("!text",), {0, 1, 2, 3}),
    (("backbone", "!*norm*"), {0, 1, 2}),
])  # fmt: skip
def test_patterns_add_up_and_take_away(patterns, chosen):
    assert select(PATHS, patterns) == {PATHS[i] for i in chosen}


def test_a_pattern_without_a_match_names_the_nearest_tag():
    with pytest.raises(ValueError, match=r"trains: no parameter matches 'temporl'; .*did you mean 'temporal'"):
        select(PATHS, ("temporl",))
    with pytest.raises(ValueError, match="leave no parameter"):
        select(PATHS, ("text", "!scale"))
