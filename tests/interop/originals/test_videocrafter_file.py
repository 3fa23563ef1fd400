"""VideoCrafter2's single file against networks of diffusers and a sampler of numpy, made here from the equations."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tests.interop.originals.files import as_authors_wrote
from tests.interop.originals.test_layouts import PUBLISHED
from vdm_jax.cli.main import main
from vdm_jax.interop.families.autoencoders_kl import AUTOENCODER_KL
from vdm_jax.interop.families.encoders import CLIP_TEXT
from vdm_jax.interop.families.unet import UNET, UNET_3D
from vdm_jax.interop.imported import records_of
from vdm_jax.interop.originals.latent_diffusion import AUTOENCODER
from vdm_jax.interop.originals.videocrafter import VIDEOCRAFTER_TEXT, VIDEOCRAFTER_UNET
from vdm_jax.interop.pipelines.families import open_pipeline
from vdm_jax.interop.pipelines.pipeline import generate
from vdm_jax.interop.pipelines.request import Draws, Request

torch = pytest.importorskip("torch", reason="the file is made by it")
diffusers = pytest.importorskip("diffusers", reason="its networks are the oracle")
pytest.importorskip("transformers", reason="its networks are the oracle")

_WIDTH, _SHAPE, _STEPS, _SCALE, _FPS = 64, (2, 8, 8, 4), 3, 6.0, 16.0
_UNET = {
    "block_out_channels": [_WIDTH, _WIDTH], "layers_per_block": 1, "cross_attention_dim": 64, "attention_head_dim": 64,
    "down_block_types": ["DownBlock3D", "CrossAttnDownBlock3D"], "up_block_types": ["CrossAttnUpBlock3D", "UpBlock3D"],
}  # fmt: skip
_KL = {
    "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [32, 32], "layers_per_block": 1,
}  # fmt: skip
_TEXT = {
    "vocab_size": 12, "hidden_size": 64, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 1,
    "max_position_embeddings": 9, "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 0, "hidden_act": "gelu",
}  # fmt: skip
_WORDS = ["<pad>", "<unk>", "<s>", "a", "red", "blue", "square", "moves", "left", "blurred", "fast", "</s>"]
_PROMPT = "a red square moves"


class Told(torch.nn.Module):
    """An embedding of the time, to which that of the frame rate is added."""

    def __init__(self, time, fps):
        super().__init__()
        self.time, self.fps = time, fps
        self.numbers = diffusers.models.embeddings.Timesteps(_WIDTH, flip_sin_to_cos=True, downscale_freq_shift=0)

    def forward(self, embedded, condition=None):
        return self.time(embedded) + self.fps(self.numbers(torch.tensor([_FPS])))


class Network:
    """ModelScope's UNet of diffusers, told the frame rate."""

    def __init__(self):
        from tests.interop.pipelines.oracle import network
        from vdm_jax.interop.parity import redraw

        self.unet = network(UNET_3D, _UNET, 3, 0.08)
        self.fps = diffusers.models.embeddings.TimestepEmbedding(_WIDTH, 4 * _WIDTH)
        redraw(self.fps, 0.3, 4)

    def save_pretrained(self, folder: Path, **options):
        self.unet.save_pretrained(folder)
        from safetensors.torch import save_file

        state = self.unet.state_dict() | {f"add_embedding.{n}": v for n, v in self.fps.state_dict().items()}
        save_file(state, folder / "diffusion_pytorch_model.safetensors")

    def told(self):
        self.unet.time_embedding = Told(self.unet.time_embedding, self.fps)
        return self.unet


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Networks by their component, and the file that holds them."""
    from tests.interop.pipelines.oracle import network, tokenizer

    folder = tmp_path_factory.mktemp("videocrafter")
    unet, vae, text = Network(), network(AUTOENCODER_KL, _KL, 2), network(CLIP_TEXT, _TEXT, 1, 0.3)
    parts = {
        VIDEOCRAFTER_UNET: (unet, "model.diffusion_model."), AUTOENCODER: (vae, "first_stage_model."),
        VIDEOCRAFTER_TEXT: (text, ""),
    }  # fmt: skip
    names = ("logit_scale", "transformer.resblocks.2.ln_1.weight", "transformer.resblocks.2.attn.in_proj_weight")
    more = {f"cond_stage_model.model.{name}": np.zeros(3, np.float32) for name in names}
    file = as_authors_wrote(parts, folder / "model.safetensors", **more, betas=np.zeros(3, np.float32))
    words = tokenizer(9, start=True, words=_WORDS)
    words.save_pretrained(folder / "tokenizer")
    return {"unet": unet.told(), "vae": vae, "text_encoder": text, "tokenizer": words, "file": file}


@pytest.fixture(scope="module")
def run(made):
    folder = made["file"].parent
    words = ["import", str(made["file"]), "--with", f"tokenizer={folder / 'tokenizer'}", "--out", str(folder / "run")]
    assert main(words) == 0
    return folder / "run"


def read_text(made, prompt):
    ids = made["tokenizer"](prompt, padding="max_length", max_length=9, return_tensors="pt").input_ids
    return made["text_encoder"](ids)[0]


def sampled(made, start, draws):
    """DDIM with eta 1 over a signal that falls to 0.7 at entry 399; and the frames."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept, scale = np.cumprod(1 - betas), np.append(np.linspace(1.0, 0.7, 400), np.full(600, 0.7))
    entries = np.arange(_STEPS) * (1000 // _STEPS) + 1
    tokens, empty = read_text(made, _PROMPT), read_text(made, "blurred")
    x, visited = torch.from_numpy(start).permute(0, 4, 1, 2, 3).double(), []
    for number, entry in enumerate(entries[::-1]):
        before = entries[_STEPS - number - 2] if number < _STEPS - 1 else 0
        a, b = kept[entry], kept[before]
        said, plain = (made["unet"](x.float(), torch.tensor([entry]), text).sample for text in (tokens, empty))
        eps = plain + _SCALE * (said - plain)
        clean = (x - (1 - a) ** 0.5 * eps) / (a**0.5 * scale[entry])
        std = ((1 - b) / (1 - a) * (1 - a / b)) ** 0.5
        noise = torch.from_numpy(draws[number]).permute(0, 4, 1, 2, 3)
        x = b**0.5 * scale[before] * clean + (1 - b - std**2) ** 0.5 * eps + std * noise
        visited.append(x.permute(0, 2, 3, 4, 1).numpy())
    frames = made["vae"].decode((x / 0.18215)[0].permute(1, 0, 2, 3).float()).sample
    return np.stack(visited), (frames.permute(0, 2, 3, 1).numpy()[None] / 2 + 0.5).clip(0.0, 1.0)


def test_a_file_is_sampled_as_its_networks_are(made, run):
    rng = np.random.default_rng(5)
    start, draws = (rng.standard_normal((*lead, 1, *_SHAPE), np.float32) for lead in ((), (_STEPS,)))
    with torch.no_grad():
        visited, frames = sampled(made, start, draws)
    request = Request(
        (_PROMPT,), "blurred", frames=2, height=16, width=16, steps=_STEPS, guidance=_SCALE, options={"told_fps": _FPS}
    )
    (ours,) = generate(open_pipeline(run), request, draws=Draws(start, draws), batch=1, record=True).clips
    for here, there in zip(ours.visited, visited, strict=True):
        assert np.abs(here - there).max() < 1e-4 * np.abs(there).max()
    assert np.abs(ours.video - frames).max() < 1e-4
    assert np.ptp(frames) > 0.05


def test_what_comes_in_and_what_is_done_by_default(run, made, tmp_path, capsys):
    config = json.loads((run / "weights/text_encoder/config.json").read_text())
    assert (config["num_hidden_layers"], records_of(run)["unet"]["class"]) == (2, "UNet")
    found = open_pipeline(run).complete(Request(("a",)))
    assert (found.frames, found.height, found.width, found.steps, found.guidance) == (16, 320, 512, 50, 12.0)
    assert found.options == {"eta": 1.0, "told_fps": 28.0}
    assert main(["import", str(made["file"]), "--out", str(tmp_path / "run")]) == 2
    assert "holds no tokenizer; --with tokenizer=DIR names one" in capsys.readouterr().err


def test_shapes_alone_say_what_the_full_network_is():
    """ModelScope's of full size, told the frame rate; names are those of the authors' code."""
    modelscope = UNET_3D.config(json.loads((PUBLISHED / "text-to-video-ms-1.7b.json").read_text()))
    config = dataclasses.replace(modelscope, scalars=("fps",), scalar_dim=320)
    wanted = UNET.keymap(config).shapes(UNET.shapes(config))
    form, rename = VIDEOCRAFTER_UNET.form, VIDEOCRAFTER_UNET.rename
    theirs = {rename(name, wanted): form(name).shape(shape) for name, shape in wanted.items()}
    assert len(theirs) == len(wanted)
    assert UNET.config(VIDEOCRAFTER_UNET.config(theirs)) == config
    for name, shape in {
        "init_attn.0.proj_in.weight": (512, 320, 1), "init_attn.0.transformer_blocks.0.attn2.to_k.weight": (512, 512),
        "input_blocks.1.0.temopral_conv.conv4.3.bias": (320,), "input_blocks.3.0.op.weight": (320, 320, 3, 3),
        "input_blocks.1.2.transformer_blocks.0.ff.net.0.proj.weight": (2560, 320), "fps_embedding.2.bias": (1280,),
        "middle_block.2.proj_in.weight": (1280, 1280), "middle_block.3.temopral_conv.conv1.2.weight":
        (1280, 1280, 3, 1, 1), "output_blocks.2.1.conv.bias": (1280,), "output_blocks.5.3.conv.weight":
        (1280, 1280, 3, 3), "output_blocks.11.2.norm.bias": (320,), "input_blocks.8.0.skip_connection.weight": None,
    }.items():  # fmt: skip
        assert (name not in theirs) if shape is None else theirs[name] == shape, name
