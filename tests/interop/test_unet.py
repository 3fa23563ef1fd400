"""The UNets against those of diffusers."""

import numpy as np
import pytest

from tests.interop.parity import check_case, check_published, published
from vdm_jax.interop.cases.unet import CASES
from vdm_jax.interop.families import FAMILIES

PUBLISHED = {  # file -> tensors, parameters in millions
    "stable-diffusion-v1-5": (686, 859.5),
    "stable-diffusion-inpainting": (686, 859.5),
    "stable-diffusion-2-1": (686, 865.9),
    "text-to-video-ms-1.7b": (1480, 1411.2),
    "stable-video-diffusion-img2vid": (1428, 1524.6),
    "stable-video-diffusion-img2vid-xt": (1428, 1524.6),
    "animatediff-unet-v1-5-2": (1253, 1312.7),
    "animatediff-unet-v1-5-3": (1226, 1276.7),
    "animatediff-motion-adapter-v1-5-2": (567, 453.2),
    "animatediff-motion-adapter-v1-5-3": (540, 417.1),
}


def family(name):
    return FAMILIES[published(name)["_class_name"]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_computes_what_the_published_class_computes(case):
    pytest.importorskip("diffusers", reason="the published class is the oracle")
    check_case(case)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_mapped_whole(name):
    pytest.importorskip("diffusers", reason="the published class is the oracle")
    assert check_published(family(name), name) == PUBLISHED[name][0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    shapes = family(name).shapes(family(name).config(published(name))).values()
    assert round(sum(np.prod(shape) for shape in shapes) / 1e6, 1) == PUBLISHED[name][1]
