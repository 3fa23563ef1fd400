"""One side of `tools/bench_gpu` in a process of its own: the training step of a Wan-shaped DiT, ours or PyTorch's.

Both train in bfloat16 with float32 masters: rectified-flow loss on given latents, clipping, AdamW, one average of the
weights.  Both recompute as little as their memory allows: policies are tried from the fastest on, and the first that
runs is measured.  Ours imports nothing but jax, flax, optax and numpy beside the project; theirs is diffusers' Wan
class if it is installed and `torch_dit.TorchDiT` if not, under `torch.compile`, with `scaled_dot_product_attention`,
which takes the best kernel there is.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable

import numpy as np

TEXT, TEXT_DIM = 512, 4096


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and a clip of latents (frames, height, width); patches are 1x2x2, channels 16."""

    name: str
    dim: int
    depth: int
    heads: int
    mlp_dim: int
    clip: tuple[int, int, int]

    @property
    def tokens(self) -> int:
        t, h, w = self.clip
        return t * h * w // 4


def _sizes() -> dict[str, Case]:
    models = {"0.3b": (1024, 16, 8, 4096), "1.4b": (1536, 30, 12, 8960)}
    clips = {"8k": (8, 64, 64), "32k": (21, 60, 104), "75k": (21, 90, 160)}
    found = {f"{m}/{n}": Case(f"{m}/{n}", *size, clip) for m, size in models.items() for n, clip in clips.items()}
    return found | {"toy": Case("toy", 64, 2, 2, 128, (2, 8, 8))}


CASES = _sizes()


@dataclasses.dataclass(frozen=True)
class Measured:
    """Median seconds of a step and their deviation, bytes at the peak, and how it was reached."""

    seconds: float
    deviation: float
    memory: int
    how: str


def ours(case: Case, rounds: int) -> Measured:
    """Our step; remat policies from keeping everything to keeping nothing."""
    import jax

    tried = []
    for policy in ("none", "attention_mlp", "attention", "full"):
        try:
            step, device = _our_step(case, policy), jax.devices()[0]
            seconds = _timed(step, rounds)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            tried.append(policy)
            continue
        stats = device.memory_stats() or {}
        how = f"jax {jax.__version__}, remat {policy}" + (f" ({', '.join(tried)} did not fit)" if tried else "")
        return _measured(seconds, stats.get("peak_bytes_in_use", 0), how)
    raise SystemExit(f"{case.name}: does not fit under any remat policy")


def _our_step(case: Case, policy: str) -> Callable[[], None]:
    import jax
    import jax.numpy as jnp

    from vdm_jax.diffusion.rectified_flow import RectifiedFlow
    from vdm_jax.models.dit import DiT
    from vdm_jax.objectives.denoising import DenoisingObjective
    from vdm_jax.sharding import MeshConfig, make_mesh
    from vdm_jax.training.ema import EMAConfig
    from vdm_jax.training.optimizer import OptimizerConfig
    from vdm_jax.training.recipe import plain
    from vdm_jax.training.state import plan_state
    from vdm_jax.training.step import StepConfig, make_train_step

    config = dit_config(case, policy)
    objective = DenoisingObjective(RectifiedFlow())
    stage = plain(objective, OptimizerConfig(learning_rate=1e-4), 1000).stages[0]
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    plan = plan_state(lambda rngs: {"backbone": DiT(config, rngs)}, stage, mesh, ema=EMAConfig())
    step, state = make_train_step(plan, StepConfig(precision="bfloat16"), 0), plan.init(0)
    video, tokens = arrays(case)
    batch = jax.device_put({"video": video, "tokens": jnp.asarray(tokens, jnp.bfloat16)})

    def once() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    return once


def dit_config(case: Case, policy: str = "none"):
    """The model of a case as ours."""
    from vdm_jax.models.dit import DiTConfig

    sizes = {"dim": case.dim, "depth": case.depth, "heads": case.heads, "mlp_dim": case.mlp_dim}
    return DiTConfig(channels=16, patch=(1, 2, 2), qk_norm="all", text_dim=TEXT_DIM, remat=policy, **sizes)


def arrays(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Latents `[1, T, H, W, 16]` and text features `[1, 512, 4096]`, float32."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((1, *case.clip, 16), np.float32), rng.standard_normal((1, TEXT, TEXT_DIM), np.float32)


def theirs(case: Case, rounds: int) -> Measured:
    """PyTorch's step; without gradient checkpointing if that fits."""
    import torch

    cuda = torch.cuda.is_available()
    tried = []
    for checkpointing in (False, True):
        try:
            step, name = _their_step(case, checkpointing, "cuda" if cuda else "cpu")
            seconds = _timed(step, rounds)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            tried.append("without checkpointing did not fit")
            continue
        how = "; ".join([f"{name}, torch {torch.__version__}", f"checkpointing {checkpointing}", *tried])
        return _measured(seconds, torch.cuda.max_memory_allocated() if cuda else 0, how)
    raise SystemExit(f"{case.name}: PyTorch's step does not fit")


def _their_step(case: Case, checkpointing: bool, device: str) -> tuple[Callable[[], None], str]:
    import torch

    model, name = _peer(case, checkpointing)
    model = model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    averages = [p.detach().clone() for p in model.parameters()]
    x0, text = (torch.from_numpy(x).to(device) for x in arrays(case))

    def loss_of(noise, t):
        velocity = model(torch.lerp(x0, noise, t), t, text)
        return (velocity.float() - (noise - x0)).square().mean()

    compiled = torch.compile(loss_of)

    def once() -> None:
        noise, t = torch.randn_like(x0), torch.randn(1, 1, 1, 1, 1, device=device).sigmoid()
        with torch.autocast(device, torch.bfloat16):
            loss = compiled(noise, t)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(averages, list(model.parameters()), 1e-3)
        if device == "cuda":
            torch.cuda.synchronize()

    return once, name


def _peer(case: Case, checkpointing: bool):
    """diffusers' class, or ours in PyTorch; called with latents `[B, T, H, W, C]`, time `[1, 1, 1, 1, 1]`, text."""
    import torch
    from torch.utils.checkpoint import checkpoint

    try:
        from diffusers import WanTransformer3DModel
    except ImportError:
        from bench.torch_dit import TorchDiT

        config = dit_config(case)
        model = TorchDiT(config, config.token_grid(*case.clip))
        if checkpointing:
            for unit in model.units:
                unit.forward = lambda *args, forward=unit.forward: checkpoint(forward, *args, use_reentrant=False)
        call, name = (lambda x, t, text: model(x, 1000 * t[:, :, 0, 0, 0].expand(x.shape[:2]), text)), "TorchDiT"
    else:
        model = WanTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=case.heads, attention_head_dim=case.dim // case.heads,
            in_channels=16, out_channels=16, text_dim=TEXT_DIM, ffn_dim=case.mlp_dim, num_layers=case.depth,
        )  # fmt: skip
        if checkpointing:
            model.enable_gradient_checkpointing()

        def call(x, t, text):
            out = model(x.movedim(-1, 1), 1000 * t.flatten(), text, return_dict=False)[0]
            return out.movedim(1, -1)

        name = "diffusers WanTransformer3DModel"

    class Peer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x, t, text):
            return call(x, t, text)

    return Peer(), name


def matrix_peak(size: int) -> float:
    """Measured bf16 FLOP/s of a square matrix product."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((size, size), jnp.bfloat16)
    product = jax.jit(lambda a: a @ a)
    seconds = _timed(lambda: product(a).block_until_ready(), 20)
    return 2 * size**3 / min(seconds)


def _timed(step: Callable[[], None], rounds: int) -> list[float]:
    for _ in range(3):
        step()
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    return seconds


def _measured(seconds: list[float], memory: int, how: str) -> Measured:
    return Measured(statistics.median(seconds), statistics.stdev(seconds), memory, how)


def main() -> None:
    """`gpu_sides.py SIDE CASE ROUNDS`: prints one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=("ours", "theirs", "peak"))
    parser.add_argument("case", choices=CASES)
    parser.add_argument("rounds", type=int)
    args = parser.parse_args()
    if args.side == "peak":
        print(json.dumps(matrix_peak(256 if args.case == "toy" else 16_384)))
        return
    side = {"ours": ours, "theirs": theirs}[args.side]
    print(json.dumps(dataclasses.asdict(side(CASES[args.case], args.rounds))))


if __name__ == "__main__":
    main()
