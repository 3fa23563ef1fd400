"""The UNet of latent diffusion (2112.10752) as its authors number its blocks, whatever it has over time.

Blocks are numbered through: the first convolution, then per level its layers and what halves it; upwards per level its
layers, the last of which also enlarges.  The parts of a layer are numbered too: its residual block is 0, and so on.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping

from vdm_jax.interop.originals.layout import Shapes, count, replaced

RES = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_PLACE = re.compile(r"(down_blocks|up_blocks|mid_block)(?:\.(\d+))?\.([a-z_]+)\.(\d+)\.(.*)")


@dataclasses.dataclass(frozen=True)
class Numbering:
    """How a UNet is numbered.

    Attributes:
      parts: list of a published level -> number of that part in its layer, but for what leads to another level.
      inner: (list, name inside a part) -> name there, without the number of the part.
      first: published name of a matrix in every layer of the first level, whose layer is `{i}`.
      ends: names outside of levels that not every one of these UNets has.
    """

    parts: Mapping[str, int]
    inner: Mapping[str, Mapping[str, str]]
    first: str
    ends: Mapping[str, str]

    def layers(self, shapes: Shapes) -> int:
        """Layers of a level, from either side's names."""
        if "conv_in.weight" in shapes:
            return count(shapes, self.first)
        blocks = itertools.count(1)  # the one behind the first level's layers has no residual block, but halves
        return sum(1 for _ in itertools.takewhile(lambda i: f"input_blocks.{i}.0.in_layers.2.weight" in shapes, blocks))

    def place(self, name: str, shapes: Shapes) -> tuple[str, str, str] | None:
        """Where a published name of a level stands: (place of its part, list, name inside); None for others."""
        found = _PLACE.fullmatch(name)
        if found is None:
            return None
        side, level, kind, index, rest = found.groups()
        layers, index = self.layers(shapes), int(index)
        before = 0 if level is None else int(level) * (layers + 1)
        if kind == "downsamplers":
            return f"input_blocks.{before + layers + 1}.0", kind, rest.replace("conv.", "op.", 1)
        if kind == "upsamplers":
            attended = any(other.startswith(_attended(shapes, level, layers)) for other in shapes)
            part = max(self.parts.values()) + 1 if attended else 1
            return f"output_blocks.{before + layers}.{part}", kind, rest
        if side == "mid_block":  # both its layers are one block
            part = self.parts[kind] + index * (max(self.parts.values()) + 1)
            return f"middle_block.{part}", kind, rest
        block = f"input_blocks.{1 + before + index}" if side == "down_blocks" else f"output_blocks.{before + index}"
        return f"{block}.{self.parts[kind]}", kind, rest

    def rename(self, name: str, shapes: Shapes) -> str:
        """Published name -> name in the file, see `Original`."""
        found = self.place(name, shapes)
        if found is None:
            return replaced(name, _ENDS | self.ends)
        place, kind, rest = found
        return f"{place}.{replaced(rest, self.inner.get(kind, {}))}"

    def firsts(self, shapes: Shapes) -> list[int]:
        """Number of the first block of each descending level of a file."""
        layers = self.layers(shapes)
        found = [1]
        while f"input_blocks.{found[-1] + layers}.0.op.weight" in shapes:
            found.append(found[-1] + layers + 1)
        return found


def _attended(shapes: Shapes, level: str, layers: int) -> str:
    """What names of a transformer in an ascending level begin with, on either side."""
    if "conv_in.weight" in shapes:
        return f"up_blocks.{level}.attentions."
    return f"output_blocks.{int(level) * (layers + 1)}.1.norm."
