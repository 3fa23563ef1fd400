"""vdm_jax: the JAX/Flax home of video diffusion.  Start at `types.py`; the README has the map."""

__version__ = "0.1.0"
