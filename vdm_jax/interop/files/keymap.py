"""Key maps: which tensor of a published state dict is which part of our parameters, in both directions.

A map is a list of rules, one for every tensor name; `{i}` in a name stands for the number of a stacked layer, which is
the leading `layers` dim of our parameter:

    Rule("blocks.{i}.attn2.to_k.weight", "blocks.cross.kv.kernel", LINEAR, part=(2, 0))

Shapes follow from ours, so a map of a whole published model is checked without a byte of it.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

Shape = tuple[int, ...]
Slices = tuple[slice | int, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one tensor is laid out there and here.

    Attributes:
      to_theirs: ours -> theirs; must work on `numpy` arrays of any dtype by moving values only.
      to_ours: (theirs, shape of ours) -> ours, the inverse.
    """

    to_theirs: Callable[[np.ndarray], np.ndarray]
    to_ours: Callable[[np.ndarray, Shape], np.ndarray]


def _conv_to_theirs(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, (-1, -2), (0, 1))


PLAIN = Layout(lambda x: x, lambda x, shape: x.reshape(shape))
FLAT = Layout(lambda x: x.reshape(-1), lambda x, shape: x.reshape(shape))  # `[heads, c]` there `[heads * c]`
LEADING = Layout(lambda x: x[None], lambda x, shape: x.reshape(shape))  # a dim of 1 in front
LINEAR = Layout(lambda x: x.reshape(x.shape[0], -1).T, lambda x, shape: x.T.reshape(shape))  # `[in, *out]`: `[out, in]`
CONV = Layout(_conv_to_theirs, lambda x, shape: np.moveaxis(x, (0, 1), (-1, -2)))  # `[*k, in, out]`: `[out, in, *k]`


def as_conv(layout: Layout, dims: int) -> Layout:
    """A kernel stored as that of a convolution with `dims` window dims of 1."""
    ones = (1,) * dims
    return Layout(
        lambda x: layout.to_theirs(x).reshape(*layout.to_theirs(x).shape, *ones),
        lambda x, shape: layout.to_ours(x.reshape(x.shape[:-dims]), shape),
    )


def patches(patch: Shape) -> Layout:
    """Our matrix `[(*patch, c), out]` on whole patches, there a convolution `[out, c, *patch]` of that stride."""

    def to_theirs(x: np.ndarray) -> np.ndarray:
        return _conv_to_theirs(x.reshape(*patch, -1, x.shape[-1]))

    return Layout(to_theirs, lambda x, shape: np.moveaxis(x, (0, 1), (-1, -2)).reshape(shape))


def neighbours(layout: Layout) -> Layout:
    """Rotary pairs `(2i, 2i + 1)` of the last dim there, `(i, i + D / 2)` here (see `nn.rotary`)."""

    def to_theirs(x: np.ndarray) -> np.ndarray:
        halves = x.reshape(*x.shape[:-1], 2, x.shape[-1] // 2)
        return layout.to_theirs(np.swapaxes(halves, -1, -2).reshape(x.shape))

    def to_ours(x: np.ndarray, shape: Shape) -> np.ndarray:
        pairs = layout.to_ours(x, shape).reshape(*shape[:-1], shape[-1] // 2, 2)
        return np.swapaxes(pairs, -1, -2).reshape(shape)

    return Layout(to_theirs, to_ours)


@dataclasses.dataclass(frozen=True)
class Rule:
    """One tensor name.

    Attributes:
      theirs: the published name; `{i}` is the number of a stacked layer.
      ours: path of our parameter, joined by dots.
      layout: see `Layout`.
      part: (dim, index) of our parameter (without its `layers` dim) that this tensor fills, where several are fused.
    """

    theirs: str
    ours: str
    layout: Layout = PLAIN
    part: tuple[int, int] | None = None

    @property
    def stacked(self) -> bool:
        return "{i}" in self.theirs

    def where(self, layer: int | None) -> tuple:
        """The index of this tensor's values in our parameter."""
        inside = () if self.part is None else (slice(None),) * self.part[0] + (self.part[1],)
        return inside if layer is None else (layer, *inside)


@dataclasses.dataclass(frozen=True)
class Buffer:
    """A constant that published state dicts hold and that nobody trains: computed, never read.

    Attributes:
      theirs: its name.
      make: its value.
      saved: whether state dicts of today hold it; else only old files do, and none is written.
    """

    theirs: str
    make: Callable[[], np.ndarray]
    saved: bool = True


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of the published state dict and its place in ours."""

    rule: Rule
    layer: int | None

    @property
    def name(self) -> str:
        return self.rule.theirs if self.layer is None else self.rule.theirs.replace("{i}", str(self.layer))

    def read(self, param: np.ndarray) -> np.ndarray:
        """The tensor, taken out of our parameter."""
        return self.rule.layout.to_theirs(param[self.rule.where(self.layer)])

    def shape(self, shape: Shape) -> Shape:
        """Its shape, given that of our parameter."""
        return self.read(np.broadcast_to(np.zeros((), np.bool_), shape)).shape

    def cut(self, shape: Shape, piece: Slices) -> tuple[Slices, Slices] | None:
        """Which of this tensor's values belong to a piece of our parameter, as a device of a mesh has one.

        Args:
          shape: of our whole parameter.
          piece: what of it is wanted, a slice for each dim.

        Returns:
          Where in the piece they go, and which they are of `values`; None if none of them does.
        """
        fixed = self._fixed()
        there, these = [], []
        for dim, (size, cut) in enumerate(zip(shape, piece, strict=True)):
            start, stop, _ = cut.indices(size)
            if dim not in fixed:
                there.append(slice(None))
                these.append(slice(start, stop))
            elif start <= fixed[dim] < stop:
                there.append(fixed[dim] - start)
            else:
                return None
        return tuple(there), tuple(these)

    def values(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        """The tensor as it is laid out here, without the dims in which it is one of several; `shape` as in `cut`."""
        return self.rule.layout.to_ours(tensor, tuple(n for dim, n in enumerate(shape) if dim not in self._fixed()))

    def _fixed(self) -> dict[int, int]:
        """Dim of our parameter -> the one place in it that this tensor has."""
        fixed = {} if self.layer is None else {0: self.layer}
        if self.rule.part is not None:
            fixed[self.rule.part[0] + len(fixed)] = self.rule.part[1]
        return fixed


@dataclasses.dataclass(frozen=True)
class KeyMap:
    """All rules of a network.

    Attributes:
      rules: in any order; each of our parameters must be filled exactly once.
      buffers: see `Buffer`.
      unread: names, with `{i}` for a number, that old files hold and no network of today uses; they are left out, and
        whoever reads a file is told.
    """

    rules: Sequence[Rule]
    buffers: Sequence[Buffer] = ()
    unread: Sequence[str] = ()

    def entries(self, ours: Mapping[str, Shape]) -> Iterator[Entry]:
        """Every tensor of the published state dict.

        Args:
          ours: shape of each of our parameters by its path.

        Raises:
          ValueError: a parameter that no rule names, is filled twice or in part, or a rule for one that is not there.
        """
        filled = dict.fromkeys(ours, 0)
        for rule in self.rules:
            if rule.ours not in ours:
                raise ValueError(f"key map: {rule.theirs} names {rule.ours}, which the network does not have")
            shape = ours[rule.ours]
            for layer in range(shape[0]) if rule.stacked else (None,):
                filled[rule.ours] += int(np.prod(np.broadcast_to(0, shape)[rule.where(layer)].shape))
                yield Entry(rule, layer)
        for path, count in filled.items():
            if count != np.prod(ours[path]):
                raise ValueError(f"key map: {count} values for {path}, which has {int(np.prod(ours[path]))}")

    def leaves_out(self, name: str) -> bool:
        """Whether `name` is one of `unread`."""
        return any(re.fullmatch(re.escape(pattern).replace(r"\{i\}", r"\d+"), name) for pattern in self.unread)

    def shapes(self, ours: Mapping[str, Shape]) -> dict[str, Shape]:
        """Name -> shape of everything that the published state dict holds."""
        found = {entry.name: entry.shape(ours[entry.rule.ours]) for entry in self.entries(ours)}
        return found | {buffer.theirs: buffer.make().shape for buffer in self.buffers if buffer.saved}


def under(theirs: str, ours: str, rules: Sequence[Rule]) -> list[Rule]:
    """The rules of a part, where it stands in a whole."""
    return [dataclasses.replace(r, theirs=f"{theirs}.{r.theirs}", ours=f"{ours}.{r.ours}") for r in rules]


def linear(theirs: str, ours: str, *, bias: bool = True, part: int | None = None, pairs: bool = False) -> list[Rule]:
    """A linear layer: `weight [out, in]`, here `kernel [in, *out]`.

    Args:
      theirs, ours: names without `.weight` and `.kernel`.
      bias: whether there is one.
      part: which of the n matrices of a fused kernel `[in, heads, n, c]` with bias `[heads, n, c]`.
      pairs: the last dim is rotated in neighbouring pairs there.
    """
    weight, plain = (neighbours(LINEAR), neighbours(FLAT)) if pairs else (LINEAR, FLAT)
    at = (None, None) if part is None else ((2, part), (1, part))
    rules = [Rule(f"{theirs}.weight", f"{ours}.kernel", weight, at[0])]
    return [*rules, Rule(f"{theirs}.bias", f"{ours}.bias", plain, at[1])] if bias else rules


def conv(theirs: str, ours: str, *, bias: bool = True) -> list[Rule]:
    """A convolution over any number of dims: `weight [out, in, *k]`, here `kernel [*k, in, out]`."""
    rules = [Rule(f"{theirs}.weight", f"{ours}.kernel", CONV)]
    return [*rules, Rule(f"{theirs}.bias", f"{ours}.bias")] if bias else rules


def norm(theirs: str, ours: str, *, bias: bool = True, pairs: bool = False) -> list[Rule]:
    """A norm: `weight` and `bias`, here `scale` and `bias`, of any shape."""
    plain = neighbours(FLAT) if pairs else FLAT
    rules = [Rule(f"{theirs}.weight", f"{ours}.scale", plain)]
    return [*rules, Rule(f"{theirs}.bias", f"{ours}.bias", plain)] if bias else rules
