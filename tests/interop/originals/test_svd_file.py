"""SVD's single file: a whole pipeline, imported, sampled and exported; and its tower against one of torch."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from tests.interop.originals.files import as_authors_wrote
from tests.interop.test_component import same_bits, values
from vdm_jax.cli.main import main
from vdm_jax.interop.component import read
from vdm_jax.interop.families.autoencoders_kl import AUTOENCODER_TEMPORAL_DECODER
from vdm_jax.interop.families.encoders import CLIP_VISION_PROJECTED
from vdm_jax.interop.families.unet import UNET_SPATIO_TEMPORAL
from vdm_jax.interop.files.tensors import TensorWriter
from vdm_jax.interop.imported import records_of
from vdm_jax.interop.originals.layout import write_published
from vdm_jax.interop.originals.layouts import open_original
from vdm_jax.interop.originals.svd import SVD_AUTOENCODER, SVD_IMAGE_ENCODER, SVD_UNET
from vdm_jax.interop.pipelines.families import open_pipeline
from vdm_jax.interop.pipelines.request import Request

torch = pytest.importorskip("torch", reason="the files are made by it")
diffusers = pytest.importorskip("diffusers", reason="the published networks are the oracle")
pytest.importorskip("transformers", reason="the published networks are the oracle")

_WIDTH, _MLP, _OUT, _PATCH, _SIDE = 160, 24, 16, 56, 224
_UNET = {
    "block_out_channels": [64, 64], "num_attention_heads": [1, 1], "layers_per_block": 1, "cross_attention_dim": _OUT,
    "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 24, "in_channels": 8, "num_frames": 14,
    "down_block_types": ["DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal"],
    "up_block_types": ["CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"],
}  # fmt: skip
_VAE = {"down_block_types": ["DownEncoderBlock2D"] * 2, "block_out_channels": [32, 32], "layers_per_block": 2}
_VISION = {
    "hidden_size": _WIDTH, "intermediate_size": _MLP, "num_hidden_layers": 2, "num_attention_heads": 2,
    "projection_dim": _OUT, "image_size": _SIDE, "patch_size": _PATCH, "hidden_act": "gelu",
}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Named as the first of the published ones, with what else they hold."""
    from tests.interop.pipelines.oracle import network

    parts = {
        SVD_UNET: (network(UNET_SPATIO_TEMPORAL, _UNET, 1), "model.diffusion_model."),
        SVD_AUTOENCODER: (network(AUTOENCODER_TEMPORAL_DECODER, _VAE, 2), ""),
        SVD_IMAGE_ENCODER: (network(CLIP_VISION_PROJECTED, _VISION, 3), ""),
    }
    names = ("first_stage_model.encoder.conv_in.bias", "conditioner.embedders.0.open_clip.model.logit_scale")
    file = tmp_path_factory.mktemp("svd") / "svd.safetensors"
    return as_authors_wrote(parts, file, **{name: np.zeros(3, np.float32) for name in names})


@pytest.fixture(scope="module")
def run(file):
    assert main(["import", str(file), "--out", str(file.parent / "run")]) == 0
    return file.parent / "run"


def test_a_file_is_a_whole_pipeline(file, run, tmp_path, capsys):
    """Its weights are those that it was made of, and the published class opens what is exported of it."""
    for name, record in records_of(run).items():
        assert record["source"] == str(file)
        assert same_bits(values(run / "weights" / name), values(file.parent / "made" / name))
    assert records_of(run)["unet"]["config"]["num_frames"] == 14
    assert main(["export", str(run), "--out", str(tmp_path / "out")]) == 0
    opened = diffusers.StableVideoDiffusionPipeline.from_pretrained(tmp_path / "out")
    assert (opened.feature_extractor.size, opened.scheduler.config.sigma_max) == ({"shortest_edge": 224}, 700.0)
    assert opened.image_encoder.config.num_attention_heads == 2
    said = json.loads((tmp_path / "out/model_index.json").read_text())
    assert said["image_encoder"] == ["transformers", "CLIPVisionModelWithProjection"]


def test_what_is_not_of_the_pipeline_is_named_and_a_part_can_be_replaced(file, tmp_path, capsys):
    made = file.parent / "made"
    more = ("--with", f"unet={made / 'unet'}")
    assert main(["import", str(file), *more, "--out", str(tmp_path / "run")]) == 0
    assert "2 other tensors of it were left out: conditioner.embedders.0" in capsys.readouterr().out
    records = records_of(tmp_path / "run")
    assert [records[name]["source"] for name in ("unet", "vae")] == [str(made / "unet"), str(file)]


def test_its_pipeline_is_opened(run):
    """With all that a picture is made a clip of; what it computes is compared where published pipelines are."""
    opened = open_pipeline(run)
    found = opened.complete(Request(image=np.zeros((20, 24, 3), np.uint8)))
    assert (found.frames, found.height, found.width, found.steps) == (14, 576, 1024, 25)
    assert len(opened.plan(found).told) == 25
    assert opened.latent_shape(opened.complete(Request(image=np.zeros((20, 24, 3), np.uint8), height=16)))[1] == 8


class Tower(torch.nn.Module):
    """The tower of pictures of CLIP (2103.00020) with the attention of torch, which holds three matrices as one."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, _WIDTH, _PATCH, _PATCH, bias=False)
        self.class_embedding = torch.nn.Parameter(torch.empty(_WIDTH))
        self.positional_embedding = torch.nn.Parameter(torch.empty((_SIDE // _PATCH) ** 2 + 1, _WIDTH))
        self.ln_pre, self.ln_post = torch.nn.LayerNorm(_WIDTH), torch.nn.LayerNorm(_WIDTH)
        self.proj = torch.nn.Parameter(torch.empty(_WIDTH, _OUT))
        self.transformer = torch.nn.ModuleDict({"resblocks": torch.nn.ModuleList([self.block(), self.block()])})

    def block(self):
        up, down = torch.nn.Linear(_WIDTH, _MLP), torch.nn.Linear(_MLP, _WIDTH)
        mlp = torch.nn.ModuleDict({"c_fc": up, "c_proj": down})
        attention = torch.nn.MultiheadAttention(_WIDTH, 2, batch_first=True)
        norms = {name: torch.nn.LayerNorm(_WIDTH) for name in ("ln_1", "ln_2")}
        return torch.nn.ModuleDict({"attn": attention, "mlp": mlp, **norms})

    def forward(self, pictures):
        x = self.conv1(pictures).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = self.ln_pre(x + self.positional_embedding)
        for block in self.transformer["resblocks"]:
            h = block["ln_1"](x)
            x = x + block["attn"](h, h, h, need_weights=False)[0]
            x = x + block["mlp"]["c_proj"](torch.nn.functional.gelu(block["mlp"]["c_fc"](block["ln_2"](x))))
        return self.ln_post(x[:, 0]) @ self.proj


def test_the_tower_computes_what_one_of_torch_does(tmp_path):
    torch.manual_seed(0)
    tower = Tower()
    for name, weight in tower.named_parameters():
        torch.nn.init.normal_(weight, 1.0 if "ln_" in name and name.endswith("weight") else 0.0, 0.1)
    prefix = "conditioner.embedders.0.open_clip.model.visual."
    tensors = {prefix + name: weight.detach().numpy() for name, weight in tower.named_parameters()}
    writer = TensorWriter(tmp_path, "tower", {name: (value.shape, value.dtype) for name, value in tensors.items()})
    for name, value in tensors.items():
        writer.put(name, value)
    writer.close()
    write_published(open_original(tmp_path / "tower.safetensors"), tmp_path / "published")
    pictures = np.random.default_rng(1).standard_normal((2, _SIDE, _SIDE, 3), np.float32)
    ours = np.asarray(read(tmp_path / "published").network()(jnp.asarray(pictures)).projected)
    with torch.no_grad():
        theirs = tower(torch.from_numpy(pictures).permute(0, 3, 1, 2)).numpy()
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()
