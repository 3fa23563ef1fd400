"""Every published class: what it computes at tiny size, and its published configs in the abstract.

What only one family has is in a file of that family.
"""

import numpy as np
import pytest

from tests.interop.parity import check_case, check_published, published
from vdm_jax.interop.cases import CASES
from vdm_jax.interop.families.known import FAMILIES

PUBLISHED = {  # file -> tensors, values in millions
    "CogVideoX-2b": (736, 1693.8),
    "CogVideoX-2b-vae": (436, 215.6),
    "CogVideoX-5b": (1024, 5570.3),
    "CogVideoX-5b-I2V": (1025, 5625.1),  # 54.6 of them in the table of positions, to diffusers no parameters
    "CogVideoX-text_encoder": (220, 4762.3),
    "CogVideoX1.5-5B": (1024, 5570.7),
    "CogVideoX1.5-5B-I2V": (1028, 5571.6),
    "Latte-1": (967, 1057.2),
    "Wan2.1-FLF2V-14B": (1304, 16395.5),
    "Wan2.1-I2V-14B": (1303, 16394.9),
    "Wan2.1-I2V-14B-image_encoder": (519, 630.8),
    "Wan2.1-T2V-1.3B": (825, 1419.0),
    "Wan2.1-T2V-14B": (1095, 14288.5),
    "Wan2.1-text_encoder": (243, 5680.9),
    "Wan2.1-vae": (194, 126.9),
    "Wan2.2-I2V-A14B": (1095, 14288.9),
    "Wan2.2-TI2V-5B": (825, 4999.8),
    "Wan2.2-TI2V-5B-vae": (196, 704.7),
    "animatediff-motion-adapter-v1-5-2": (567, 453.2),
    "animatediff-motion-adapter-v1-5-3": (540, 417.1),
    "animatediff-unet-v1-5-2": (1253, 1312.7),
    "sd-controlnet-canny": (340, 361.3),
    "stable-diffusion-2-1": (686, 865.9),
    "stable-diffusion-2-1-text_encoder": (372, 340.4),
    "stable-diffusion-3-vae": (244, 83.8),
    "stable-diffusion-v1-5": (686, 859.5),
    "stable-diffusion-v1-5-text_encoder": (196, 123.1),
    "stable-diffusion-v1-5-vae": (248, 83.7),
    "stable-diffusion-xl-text_encoder_2": (517, 694.7),
    "stable-video-diffusion-img2vid-xt": (1428, 1524.6),
    "stable-video-diffusion-img2vid-xt-image_encoder": (520, 632.1),
    "stable-video-diffusion-vae": (374, 97.7),
    "text-to-video-ms-1.7b": (1480, 1411.2),
}


def family_of(name):
    options = published(name)
    return FAMILIES[options.get("_class_name") or options["architectures"][0]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family.published}: {case.name}")
def test_it_computes_what_the_published_class_computes(case):
    pytest.importorskip(case.family.library, reason="the published class is the oracle")
    check_case(case)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_mapped_whole(name):
    family = family_of(name)
    pytest.importorskip(family.library, reason="the published class is the oracle")
    assert check_published(family, name) == PUBLISHED[name][0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    family = family_of(name)
    shapes = family.shapes(family.config(published(name))).values()
    assert round(sum(np.prod(shape) for shape in shapes) / 1e6, 1) == PUBLISHED[name][1]
