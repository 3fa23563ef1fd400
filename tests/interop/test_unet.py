"""The UNets against those of diffusers."""

import pytest

from tests.interop.parity import check_case, check_published, published
from vdm_jax.interop.cases.unet import CASES
from vdm_jax.interop.families import FAMILIES

PUBLISHED = {  # file -> tensors
    "stable-diffusion-v1-5": 686,
    "stable-diffusion-2-1": 686,
    "text-to-video-ms-1.7b": 1480,
    "stable-video-diffusion-img2vid-xt": 1428,
    "animatediff-unet-v1-5-2": 1253,
    "animatediff-motion-adapter-v1-5-2": 567,
    "animatediff-motion-adapter-v1-5-3": 540,
    "sd-controlnet-canny": 340,
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
    assert check_published(family(name), name) == PUBLISHED[name]
