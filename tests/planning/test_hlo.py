import pytest

from tests.planning.hlo_texts import NESTED, SCHEDULE
from vdm_jax.planning.hlo import Array, array_types, parse


def test_loops_multiply():
    module = parse(NESTED)
    assert {c.name: times for c, times in module.runs} == {"main": 1, "outer_body": 5, "inner_body": 15}
    assert module.unknown_loops == ()
    assert module.partitions == 8


def test_a_bound_that_is_carried_is_read_where_the_loop_starts():
    carried = NESTED.replace("%bound = s32[] constant(3)", "%bound = s32[] get-tuple-element(%p.1), index=2")
    carried = carried.replace("tuple(%zero, %y)", "tuple(%zero, %y, %seven)").replace(
        "%zero = s32[] constant(0)",
        "%zero = s32[] constant(1)\n  %four = s32[] constant(4)\n  %seven = s32[] copy(%four)",
    )
    assert {c.name: times for c, times in parse(carried).runs}["inner_body"] == 5 * (4 - 1)


def test_a_loop_of_unknown_length_is_named_and_counts_once():
    unknown = NESTED.replace("compare(%i.1, %bound), direction=LT", "custom-call(%i.1)")
    module = parse(unknown)
    assert module.unknown_loops == ("inner",)
    assert {c.name: times for c, times in module.runs}["inner_body"] == 5


def test_a_fused_condition_is_seen_through():
    fused = NESTED.replace(
        "  ROOT %less = pred[] compare(%i.1, %bound), direction=LT",
        "  ROOT %less = pred[] fusion(%i.1, %bound), kind=kLoop, calls=%compared",
    ).replace(
        "%outer_body (q:",
        "%compared (l: s32[], r: s32[]) -> pred[] {\n  %l = s32[] parameter(0)\n  %r = s32[] parameter(1)\n"
        "  ROOT %c = pred[] compare(%l, %r), direction=LE\n}\n\n%outer_body (q:",
    )
    assert {c.name: times for c, times in parse(fused).runs}["inner_body"] == 5 * 4


def test_a_payload_of_many_lines_is_one_instruction():
    module = parse(SCHEDULE)
    main = module.computations[module.entry]
    kernel = main.by_name["kernel"]
    assert kernel.opcode == "custom-call"
    assert kernel.operands == ("e",)
    assert "all-reduce(%fake)" in kernel.attributes
    assert main.root.name == "sum.9"
    assert [p.name for p in main.parameters] == ["w", "l", "r", "g", "e"]


def test_types():
    assert array_types("(bf16[64,128]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/s32[], pred[7])") == (
        Array("bf16", (64, 128), True),
        Array("s32", ()),
        Array("pred", (7,)),
    )
    assert Array("bf16", (64, 128)).bytes == 64 * 128 * 2
    assert Array("s4", (8,)).bytes == 4


def test_operands_with_and_without_types():
    module = parse(NESTED.replace("add(%i, %one)", "add(s32[] %i, s32[]{:T(128)} %one)"))
    assert module.computations["inner_body"].by_name["next"].operands == ("i", "one")


def test_a_branch_counts_once():
    text = NESTED.replace(
        "%moved = f32[16,4]{1,0} all-to-all(%z), channel_id=4, replica_groups={{0,2,4,6},{1,3,5,7}}, dimensions={0}",
        "%moved = f32[16,4]{1,0} conditional(%j, %z, %z), branch_computations={%few, %many}",
    ).replace(
        "%outer_condition",
        "%few (f: f32[16,4]) -> f32[16,4] {\n  ROOT %f = f32[16,4]{1,0} parameter(0)\n}\n\n"
        "%many (m: f32[16,4]) -> f32[16,4] {\n  %m = f32[16,4]{1,0} parameter(0)\n"
        "  ROOT %n = f32[16,4]{1,0} negate(%m)\n}\n\n%outer_condition",
        1,
    )
    assert {c.name: times for c, times in parse(text).runs}["many"] == 5
    assert "few" not in {c.name for c, _ in parse(text).runs}


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        parse("HloModule nothing\n")
