"""Wan of diffusers: text, pictures and clips to video (2503.20314; 2.1 and 2.2).

    text        velocity of Wan(x, t, text), guided
    picture     2.1, 2.2 14B: `concat` = [which frames are given (4), picture and grey frames encoded]; 2.1 reads CLIP
                features of the picture as well
                2.2 5B (`expand_timesteps`): the first latent frame is the picture, at level 0
    clip        starts from the clip, noised to where a fraction `strength` of the steps is left

With two transformers (2.2 14B) the first takes the steps that are told `boundary_ratio * 1000` and more, the second the
others, each with a guidance of its own.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vdm_jax.interop.finetuning.prompts import WAN
from vdm_jax.interop.pipelines.opened import Opened
from vdm_jax.interop.pipelines.pictures import fitted
from vdm_jax.interop.pipelines.pipeline import Networks, Pipeline
from vdm_jax.interop.pipelines.request import Conditions, Defaults, Draws, Request, with_video
from vdm_jax.interop.schedulers.plans import Plan
from vdm_jax.models.encoders.image_processing import MEAN, STD, clip_picture
from vdm_jax.sampling import Denoiser, guided, make_denoiser

TEXT = 512  # tokens of a prompt
_BICUBIC = 3  # of Pillow


class WanTextToVideo(Pipeline):
    """`WanPipeline`; also changes a clip and, with `expand_timesteps`, animates a picture."""

    def __init__(self, opened: Opened):
        super().__init__(opened)
        self.boundary = opened.index.get("boundary_ratio")
        self.expands = bool(opened.index.get("expand_timesteps", False))
        if self.boundary is not None and "transformer_2" in opened.parts:
            self.denoisers = ("transformer", "transformer_2")
        picture = {"image"} if self.expands else set()
        self.takes = frozenset({"negative", "video", "strength"} | picture)

    @property
    def defaults(self) -> Defaults:
        second = {"guidance_2": None} if len(self.denoisers) == 2 else {}  # None: that of the first
        return Defaults(81, 480, 832, 50, 5.0, 16.0, options=second)

    @property
    def multiples(self) -> tuple[int, int]:
        side = self.opened.part("vae").config.grid.side
        _, height, width = self.opened.part("transformer").config.patch
        return side * height, side * width

    def complete(self, request: Request) -> Request:
        """See `Pipeline.complete`.  A clip to change has as many frames as are asked for, or else all of its own."""
        if request.video is None:
            if request.strength is not None:
                raise ValueError("strength: needs a video to change")
            return super().complete(request)
        if request.image is not None:
            raise ValueError("video: goes with no image")
        return super().complete(with_video(request, strength=0.8))

    def conditions(self, request: Request, draws: Draws) -> Conditions:
        text, negative, cut = self.prompts(request, WAN, TEXT)
        cond, null = {"tokens": text["tokens"]}, {"tokens": negative["tokens"]} if request.guides else None
        if request.video is not None:
            return Conditions(cond, null, start=self.normalised(_sized(request.video, request)[None]), cut=cut)
        if request.image is None or not self.expands:
            return Conditions({**cond, **self.pictured(request)}, null, cut=cut)
        first = self.normalised(_sized(request.image[None], request)[None])
        shape = (1, *self.latent_shape(request))
        given = np.concatenate([first, np.zeros((1, shape[1] - 1, *shape[2:]), np.float32)], axis=1)
        return Conditions(cond, null, given=given, given_frames=np.arange(shape[1])[None] == 0, cut=cut)

    def pictured(self, request: Request) -> dict[str, np.ndarray]:
        """What the network reads of pictures."""
        return {}

    def normalised(self, clip: np.ndarray) -> np.ndarray:
        """Pixels `[B, T, H, W, 3]` in [-1, 1] to normalised latents."""
        scale = self.opened.part("vae").config.scale
        return self.encode(clip, lambda posterior: scale.normalise(posterior.mode()))

    def denoiser(self, networks: Networks, plan: Plan, request: Request, null) -> Denoiser:
        if len(networks) == 1:
            return super().denoiser(networks, plan, request, null)
        told = plan.told_by(self.process)
        scales = (request.guidance, request.options["guidance_2"] or request.guidance)
        high, low = (make_denoiser(self.process, network, told) for network in networks.values())
        if null is not None:
            high, low = (guided(each, scale, null) for each, scale in zip((high, low), scales))
        firsts = plan.levels[:-1][plan.told >= self.boundary * self.opened.scheduler.options.num_train_timesteps]
        lowest = np.min(firsts, initial=np.inf)  # level at which the first network is still asked

        def denoiser(x, t, cond):
            return jax.lax.cond(jnp.max(t) >= lowest, high, low, x, t, cond)

        return denoiser


class WanVideoToVideo(WanTextToVideo):
    """`WanVideoToVideoPipeline`."""

    needs = frozenset({"video"})


class WanImageToVideo(WanTextToVideo):
    """`WanImageToVideoPipeline`: a first frame, or a first and a last one."""

    needs = frozenset({"image"})

    def __init__(self, opened: Opened):
        super().__init__(opened)
        self.takes = frozenset({"negative"} if self.expands else {"negative", "last_image"})
        if self.reads_features and "image_encoder" not in opened.parts:
            raise ValueError(f"{opened.run}: lacks image_encoder; its transformer reads features of the picture")

    @property
    def reads_features(self) -> bool:
        """Whether the network reads CLIP features of the picture."""
        return self.opened.part("transformer").config.image_dim > 0

    def complete(self, request: Request) -> Request:
        """See `Pipeline.complete`."""
        if request.last_image is not None and request.frames == 1:
            raise ValueError("frames: 1 has no room for a first and a last image")
        both = self.opened.part("transformer").config.image_positions > 0
        if both and request.image is not None and request.last_image is None:
            raise ValueError(f"last_image: missing; the transformer of {self.opened.run} reads two pictures")
        return super().complete(request)

    def pictured(self, request: Request) -> dict[str, np.ndarray]:
        pictures = [each for each in (request.image, request.last_image) if each is not None]
        config = self.opened.part("vae").config
        clip = np.zeros((1, request.frames, request.height, request.width, 3), np.float32)
        frames, height, width, _ = self.latent_shape(request)
        given = np.zeros((1, frames, height, width, config.grid.frames), np.float32)
        clip[0, :1], given[:, 0] = _sized(pictures[0][None], request), 1.0
        if len(pictures) == 2:
            clip[0, -1:], given[:, -1, ..., -1] = _sized(pictures[1][None], request), 1.0
        found = {"concat": np.concatenate([given, self.normalised(clip)], axis=-1)}
        return {**found, "image": self._features(pictures)} if self.reads_features else found

    def _features(self, pictures: list[np.ndarray]) -> np.ndarray:
        """CLIP features `[1, L, D]` of pictures, one behind the other."""
        part, size = self.opened.part("image_encoder"), self._picture_size()
        ready = np.concatenate([np.asarray(clip_picture(jnp.asarray(each)[None], size)) for each in pictures])

        def run(params, pictures):
            return part.merge(params)(pictures.astype(part.dtype), skip=1).hidden.astype(jnp.float32)

        found = jax.device_get(self.opened.compiled(run)(self.opened.weights("image_encoder"), ready))
        return found.reshape(1, -1, found.shape[-1])

    def _picture_size(self) -> int:
        """Side of the square that the picture is cropped to.  Raises ValueError for another processing than CLIP's."""
        said, size = self.opened.settings("image_processor", "preprocessor_config.json"), 0
        crop, shortest = said.get("crop_size", {}), said.get("size", {})
        size = crop.get("height", 224) if isinstance(crop, dict) else crop
        shortest = shortest.get("shortest_edge", size) if isinstance(shortest, dict) else shortest
        kept = {"do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True}
        kept |= {"resample": _BICUBIC, "image_mean": list(MEAN), "image_std": list(STD)}
        for name, value in kept.items():
            if said.get(name, value) != value:
                raise ValueError(f"image_processor: {name}={said[name]!r} is not supported (only {value!r})")
        if shortest != size:
            raise ValueError(f"image_processor: size={shortest} is not supported (only crop_size={size})")
        return size


def _sized(pictures: np.ndarray, request: Request) -> np.ndarray:
    return fitted(pictures, request.height, request.width)
