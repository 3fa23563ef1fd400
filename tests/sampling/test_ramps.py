import numpy as np
import pytest

from vdm_jax.sampling import ramps


def test_the_shapes():
    np.testing.assert_allclose(ramps.linear(1.0, 2.5, 4), [1.0, 1.5, 2.0, 2.5])
    np.testing.assert_allclose(ramps.triangle(1.0, 3.0, 5), [1.0, 2.0, 3.0, 2.0, 1.0])
    np.testing.assert_allclose(ramps.trapezoid(1.0, 3.0, 9, flat=0.5), [1, 2, 3, 3, 3, 3, 3, 2, 1])
    for shape in (ramps.linear, ramps.triangle, ramps.trapezoid):
        scale = shape(1.0, 2.5, 14)
        assert (scale.shape, scale.dtype) == ((14,), np.float32)
        np.testing.assert_array_equal(shape(2.5, 2.5, 7), np.full(7, 2.5, np.float32))
        np.testing.assert_array_equal(shape(1.0, 2.5, 1), [1.0])


def test_what_is_no_ramp_is_named():
    with pytest.raises(ValueError, match="flat: 1.0 must be 0 or more and below 1"):
        ramps.trapezoid(1.0, 2.0, 5, flat=1.0)
    with pytest.raises(ValueError, match="frames: 0 must be 1 or more"):
        ramps.linear(1.0, 2.0, 0)
