import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.attention.layout import DIMS, LAYOUTS, check_layout, fold, gather, resize, spread, unfold

SIZES = {"B": 2, "G": 3, "H": 5, "T": 4, "S": 6, "N": 6, "D": 7}


def numbers(layout):
    shape = tuple(SIZES[dim] for dim in layout)
    return jnp.arange(np.prod(shape)).reshape(shape)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_spread_and_gather_are_inverse(layout):
    x = numbers(layout)
    wide = spread(x, layout)
    present = layout.replace("N", "S")
    assert wide.shape == tuple(SIZES[dim] if dim in present else 1 for dim in DIMS)
    np.testing.assert_array_equal(gather(wide, layout), x)
    index = {dim: size - 1 for dim, size in SIZES.items()}
    want = x[tuple(index[dim] for dim in layout)]
    assert wide[tuple(index[dim] if dim in present else 0 for dim in DIMS)] == want


@pytest.mark.parametrize("shared", [False, True])
def test_fold_and_unfold_are_inverse(shared):
    x = spread(numbers("BGHND"), "BGHND")
    flat = fold(x, shared)
    assert flat.shape == ((2, 5, 3 * 6, 7) if shared else (2 * 3, 5, 6, 7))
    np.testing.assert_array_equal(unfold(flat, x.shape, shared), x)
    np.testing.assert_array_equal(fold(x[..., 0], shared), flat[..., 0])


def test_resize_cuts_off_or_pads_with_zeros():
    x = jnp.ones((2, 3))
    np.testing.assert_array_equal(resize(x, 1, 5), [[1, 1, 1, 0, 0]] * 2)
    assert resize(x, 1, 2).shape == (2, 2)
    assert resize(x, 0, 2) is x
    assert not resize(jnp.ones(2, bool), 0, 3)[2]


def test_wrong_layouts_are_refused_by_name():
    with pytest.raises(ValueError, match="layout: unknown 'BNDH'; did you mean 'BNHD'"):
        check_layout("BNDH")
    with pytest.raises(ValueError, match=r"q, k, v: shape \(2, 3\) has 2 dims, the layout BNHD 4"):
        spread(jnp.ones((2, 3)), "BNHD")
