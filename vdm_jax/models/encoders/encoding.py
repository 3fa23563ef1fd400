"""What every encoder gives back."""

from typing import NamedTuple

import jax

Array = jax.Array


class Encoding(NamedTuple):
    """An encoded prompt or picture; what nobody reads is not computed under `jax.jit`.

    Attributes:
      tokens: `[B, L, D]`, the last hidden state (`last_hidden_state` there): with the final norm of text encoders.
      hidden: `[B, L, D]`, before the last `skip` blocks and any final norm (`hidden_states[-1 - skip]` there).
      pooled: `[B, D]`, normed: the end token of CLIP's prompts, the class token of its pictures; None for T5.
      projected: `[B, P]`, pooled and projected (`text_embeds`, `image_embeds` there); None without a projection.
    """

    tokens: Array
    hidden: Array
    pooled: Array | None = None
    projected: Array | None = None
