"""Published encoders of prompts and pictures, frozen or trained with the backbone: CLIP, T5, UMT5."""

from vdm_jax.models.encoders.clip import CLIPText, CLIPTextConfig, CLIPVision, CLIPVisionConfig
from vdm_jax.models.encoders.encoding import Encoding
from vdm_jax.models.encoders.t5 import T5, T5Config

__all__ = ["T5", "CLIPText", "CLIPTextConfig", "CLIPVision", "CLIPVisionConfig", "Encoding", "T5Config"]
