"""Clips from a model that was trained with vdm_jax: `model.py` beside this file is the network.

    model = load("the folder that this file lies in")
    clips = model.sample(["a red square moves left"], seed=3)            # [N, T, H, W, C], pixels in [-1, 1]

    python sample.py --prompt "a red square moves left" --out x.pt

The folder holds `transformer/` or `unet/`, `sampling.json` (the process the weights were trained with, and how they
were sampled) and, for a model of text, `text_encoder/` and `tokenizer/`; prompts need the library `tokenizers` too.
"""

import argparse
import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace

import torch
from model import Network, TextEncoder, open_network
from safetensors.torch import load_file
from torch import Tensor


class Tokenizer:
    """Prompts to token ids and mask, `[B, L]` each; longer prompts are cut before their end token."""

    def __init__(self, folder: Path):
        from tokenizers import Tokenizer as Inner  # only prompts need it

        said = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        self.length, self.pad = said["model_max_length"], said["pad_token_id"]
        self.inner = Inner.from_file(str(folder / "tokenizer.json"))

    def __call__(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        rows, lengths = [], []
        for ids in (encoded.ids for encoded in self.inner.encode_batch(list(prompts))):
            ids = [*ids[: self.length - 1], ids[-1]] if len(ids) > self.length else ids
            rows.append(ids + [self.pad] * (self.length - len(ids)))
            lengths.append(len(ids))
        return torch.tensor(rows), torch.arange(self.length) < torch.tensor(lengths)[:, None]


class Process:
    """Noise: x_t = alpha(t) x_0 + sigma(t) eps.  `said` is `process` of `sampling.json`; levels are plain numbers."""

    def __init__(self, said: dict):
        self.said = SimpleNamespace(**said)
        self.tabled = self.said.kind in ("vp", "scaled_vp")
        if self.tabled:
            kept = [1.0, *self.alphas_cumprod().tolist()]
            self.table = [(math.sqrt(k) * self.signal(i), math.sqrt(1 - k)) for i, k in enumerate(kept)]

    def signal(self, entry: int) -> float:
        """What the signal is scaled by at an entry of the table, of which 0 is clean."""
        if self.said.kind == "vp":
            return 1.0
        return 1 - (1 - self.said.signal) * min(max(entry - 1, 0) / (self.said.ramp - 1), 1.0)

    def alphas_cumprod(self) -> Tensor:
        """`[N]` float64; betas and their product are rounded to float32 first, as in training."""
        said = self.said
        n, start, end = said.steps, said.beta_start, said.beta_end
        if said.schedule == "cosine":
            left = torch.cos((torch.arange(n + 1, dtype=torch.float64) / n + 0.008) / 1.008 * math.pi / 2) ** 2
            betas = (1 - left[1:] / left[:-1]).clamp(max=0.999).float()
        elif said.schedule == "scaled_linear":
            betas = torch.linspace(start**0.5, end**0.5, n, dtype=torch.float32) ** 2
        else:
            betas = torch.linspace(start, end, n, dtype=torch.float32)
        kept = torch.cumprod((1 - betas).double(), 0).float().double()
        kept = kept / (said.snr_shift + (1 - said.snr_shift) * kept)
        if said.zero_terminal_snr:
            root = kept.sqrt()
            kept = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        return kept

    def levels(self, steps: int) -> list[float]:
        """K + 1 levels, from pure noise to 0."""
        said = self.said
        line = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        if self.tabled:
            return ((line * said.steps).round() / said.steps).tolist()
        if said.kind == "rectified_flow":
            top = 0.99 if said.prediction == "eps" else 1.0
            return (top * said.shift * line / (1 + (said.shift - 1) * line)).tolist()
        low, high = said.sigma_min ** (1 / said.rho), said.sigma_max ** (1 / said.rho)
        line = torch.linspace(1, 0, steps, dtype=torch.float64)
        return [said.sigma_max, *((low + line * (high - low)) ** said.rho)[1:].tolist(), 0.0]

    def alpha_sigma(self, t: float) -> tuple[float, float]:
        """At a level of `levels`."""
        if self.tabled:
            return self.table[round(t * self.said.steps)]
        return (1 - t, t) if self.said.kind == "rectified_flow" else (1.0, t)

    def told(self, t: float) -> float:
        """What the network is told of a level."""
        said = self.said
        if self.tabled:
            return max(t * said.steps - 1, 0.0)
        if said.kind == "rectified_flow":
            return 1000 * t
        log = math.log(max(t, said.sigma_min))
        low, high = math.log(said.sigma_min), math.log(said.sigma_max)
        return 0.25 * log if said.told == "quarter_log" else 1000 * (log - low) / (high - low)

    def fed(self, x: Tensor, t: float) -> Tensor:
        """What the network is fed for x_t."""
        return x / math.hypot(t, self.said.sigma_data) if self.said.kind == "edm" else x

    def clean(self, output: Tensor, x: Tensor, t: float) -> Tensor:
        """The x_0 that an output stands for: it is n eps + c x_0, and x_t the other mixture of the two."""
        said = self.said
        alpha, sigma = self.alpha_sigma(t)
        if said.kind == "edm":
            data, scale = said.sigma_data, math.hypot(sigma, said.sigma_data) * (1 if said.prediction == "F" else -1)
            n, c = -data / scale, sigma / (data * scale)
        else:
            n, c = {"x0": (0, 1), "eps": (1, 0), "v": (alpha, -sigma), "velocity": (1, -1)}[said.prediction]
        return (n * x - sigma * output) / (n * alpha - c * sigma)

    def step(self, x: Tensor, x0: Tensor, t: float, s: float, eta: float, noise: Tensor | None) -> Tensor:
        """From level t to s < t: Euler along the straight line through x_0 (DDIM), with eta = 1 ancestral."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.alpha_sigma(t), self.alpha_sigma(s)
        keep = sigma_s / sigma_t
        if eta == 0 or s == 0:
            return keep * x + (alpha_s - keep * alpha_t) * x0
        ratio = alpha_t / alpha_s
        if self.said.kind == "scaled_vp":  # noise is that of an unscaled signal
            ratio = math.sqrt((1 - sigma_t**2) / (1 - sigma_s**2))
        std = eta * keep * math.sqrt(max(sigma_t**2 - (ratio * sigma_s) ** 2, 0))
        keep = keep * math.sqrt(max(1 - eta**2 + (eta * keep * ratio) ** 2, 0))
        return keep * x + (alpha_s - keep * alpha_t) * x0 + std * noise


class VideoModel:
    """The network with everything it is sampled with; made by `load`."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype):
        self.settings = json.loads((folder / "sampling.json").read_text("utf-8"))
        self.process = Process(self.settings["process"])
        self.network = open_network(Network, folder / self.settings["network"], device, dtype)
        with_text = (folder / "text_encoder").is_dir()
        self.text = open_network(TextEncoder, folder / "text_encoder", device, dtype) if with_text else None
        self.tokenizer = Tokenizer(folder / "tokenizer") if with_text else None
        null = folder / "null.safetensors"
        self.null = load_file(null, device=device) if null.is_file() else None
        self.device, self.dtype = device, dtype

    def encode(self, prompts: list[str]) -> dict[str, Tensor]:
        """`tokens` and `tokens_mask` of prompts."""
        ids, mask = (part.to(self.device) for part in self.tokenizer(prompts))
        return {"tokens": self.text(ids, mask), "tokens_mask": mask}

    @torch.no_grad()
    def sample(
        self, prompts=None, *, count=1, seed=0, steps=None, guidance=None, eta=0.0, noise=None, **cond
    ) -> Tensor:
        """Clips, `[N, T, H, W, C]` float32.

        Args:
          prompts: one a clip; None for a model without text, of which `count` clips are made.
          seed: of the noise.
          steps, guidance: as in `sampling.json` where None; a number guides all frames alike.
          eta: 0 Euler (DDIM), 1 ancestral.
          noise: `[N, T, H, W, C]` to start from, in place of a draw.
          cond: further arguments of `Network.forward`; where text features come from elsewhere, `tokens` and
            `tokens_mask`.
        """
        said, process, null = self.settings, self.process, self.null or {}
        if prompts is not None:
            cond, null = cond | self.encode(prompts), self.encode([""])
        generator = torch.Generator().manual_seed(seed)
        count = len(prompts) if prompts is not None else count
        x = torch.randn(count, *said["clip"], generator=generator) if noise is None else noise
        levels = process.levels(steps or said["steps"])
        x = x.to(self.device) * math.hypot(*process.alpha_sigma(levels[0]))
        scale = self.scale() if guidance is None else guidance
        empty = {name: value.expand(count, *value.shape[1:]) for name, value in null.items()}
        empty |= {name: torch.zeros_like(cond[name]) for name in said["guidance_also"]}
        alone = isinstance(scale, int | float) and scale == 1
        for t, s in itertools.pairwise(levels):
            x0 = self.belief(x, t, cond)
            if empty and not alone:
                x0 = guide(self.belief(x, t, cond | empty), x0, scale, said["guidance_rescale"])
            x0 = x0.clamp(-1, 1) if said["clip_x0"] else x0
            draw = torch.randn(x.shape, generator=generator).to(x.device) if eta else None
            x = process.step(x, x0, t, s, eta, draw)
        return x

    def scale(self) -> float | Tensor:
        """Guidance of `sampling.json`: a number, or `[T, 1, 1, 1]` where it rises from the first frame to the last."""
        said = self.settings
        if said["guidance_from"] is None:
            return said["guidance"]
        ramp = torch.linspace(said["guidance_from"], said["guidance"], said["clip"][0], device=self.device)
        return ramp.view(-1, 1, 1, 1)

    def belief(self, x: Tensor, t: float, cond: dict) -> Tensor:
        """x_0 as the network sees it, from `x` at level t."""
        told = torch.full((len(x),), self.process.told(t), device=x.device)
        output = self.network(self.process.fed(x, t).to(self.dtype), told, **cond)
        return self.process.clean(output.float(), x, t)


def guide(without: Tensor, given: Tensor, scale: float | Tensor, rescale: float) -> Tensor:
    """Classifier-free guidance; `rescale` sets so much of its contrast back to that of `given`."""
    x0 = without + scale * (given - without)
    if not rescale:
        return x0
    wanted, found = (y.flatten(1).std(1, correction=0).clamp(min=1e-8).view(-1, 1, 1, 1, 1) for y in (given, x0))
    return rescale * wanted / found * x0 + (1 - rescale) * x0


def load(folder: str = ".", device: str = "cpu", dtype: torch.dtype = torch.float32) -> VideoModel:
    """The model of an exported folder."""
    return VideoModel(Path(folder), device, dtype)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Makes clips, [N, T, H, W, C] in [-1, 1], and writes them with torch.save."
    )
    parser.add_argument("--prompt", action="append", help="what to show; may be repeated")
    parser.add_argument("--count", type=int, default=1, help="clips of a model without text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="x.pt")
    asked = parser.parse_args()
    made = load(Path(__file__).parent).sample(asked.prompt, count=asked.count, seed=asked.seed)
    torch.save(made, asked.out)
    print(asked.out, *made.shape)
