import jax
import jax.numpy as jnp

from vdm_jax.attention import attend
from vdm_jax.attention.chosen import choices
from vdm_jax.sharding import LogicalRules, MeshConfig, activation_sharding, make_mesh

Q = jax.ShapeDtypeStruct((4, 16, 4, 8), jnp.float32)


def trace(**options):
    jax.eval_shape(lambda q: attend(q, q, q, **options), Q)


def test_each_choice_is_heard_once():
    with choices() as lines:
        trace()
        trace()
        trace(kernel="reference")
    assert [line.split(":")[0] for line in lines] == ["kernel chunked", "kernel reference"]
    assert lines[1] == "kernel reference: asked for (16 x 16 scores)"


def test_nobody_listens_afterwards():
    with choices() as lines:
        pass
    trace()
    assert lines == []


def test_a_stand_in_says_what_the_other_platform_chooses():
    with choices("gpu") as lines:
        jax.eval_shape(lambda q: attend(q, q, q), jax.ShapeDtypeStruct((4, 128, 4, 64), jnp.bfloat16))
    assert len(lines) == 1
    assert lines[0].startswith("kernel cudnn: ")


def test_partitions_are_heard():
    mesh = make_mesh(MeshConfig(data=2, context=4))

    def on_mesh(q):
        with activation_sharding(mesh, LogicalRules()):
            return attend(q, q, q)

    with choices() as lines:
        jax.jit(on_mesh).trace(Q)
    assert any(line == "partition ulysses: 4 heads divide by context 4" for line in lines)
