"""How the operands and masks of one attention call lie on the mesh under a partition: specs, padding, tile shapes.

Lengths that the axis does not divide are padded here.  A partition that gives each device whole sequences drops the
padding again before a kernel sees it; a ring masks padded keys.
"""

import dataclasses
import math

import jax
from jax.sharding import PartitionSpec

from vdm_jax.attention.layout import GROUPS, HEADS, TOKENS, resize
from vdm_jax.attention.partition import CONTEXT, Partition, partition_for
from vdm_jax.attention.policy import Policy
from vdm_jax.attention.ring import Ring
from vdm_jax.attention.ulysses import Ulysses
from vdm_jax.sharding.context import axis_size
from vdm_jax.sharding.rules import activation_spec

Array = jax.Array
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where one call's arrays live; all shapes are `[B, G, H, T, S, D]`.

    Attributes:
      where: the partition.
      q_shape, k_shape: of the operands, as given.
      q_spec, k_spec: how they lie on the mesh.
      q_length, k_length: tokens (of a frame) that are not padding.
      zigzag: whether tokens are dealt out for causal balance.
      positional: whether the policy depends on where tokens stand.
      unit: tokens of a unit of such a policy; chunks of a zig-zag hold whole ones.
      context: devices along the axis.
      cached: whether keys and values come with all tokens and cut by heads already, as `KVCache` may hold them.
    """

    where: Partition
    q_shape: Shape
    k_shape: Shape
    q_spec: PartitionSpec
    k_spec: PartitionSpec
    q_length: int
    k_length: int
    zigzag: bool
    positional: bool
    unit: int
    context: int
    cached: bool

    @classmethod
    def of(
        cls, partition: str, policy: Policy, q_shape: Shape, k_shape: Shape, length: int | None, keys: str = "tokens"
    ) -> "Placement":
        """The placement on the current mesh.

        Args:
          partition: a name of `PARTITIONS`, or `auto`.
          policy: what is seen.
          q_shape, k_shape: of the operands.
          length: keys (of a frame) that are not padding, and queries where there are as many; None: all.
          keys: what of the keys the axis cuts, see `attend`.

        Raises:
          ValueError: no such partition, or it cannot honour the heads or the policy.
        """
        context = axis_size(CONTEXT)
        spec = list(activation_spec(q_shape, "batch", None, "heads", None, None, None))
        on_shard = (*q_shape[:HEADS], q_shape[HEADS] // _parts(spec[HEADS]), *q_shape[HEADS + 1 :])
        where = partition_for(partition, context, on_shard, k_shape)
        k_length = k_shape[TOKENS] if length is None else length
        q_length = k_length if q_shape[TOKENS] == k_shape[TOKENS] else q_shape[TOKENS]
        plain = policy.causal and policy.window is None and policy.mask is None
        zigzag = where.ring > 1 and plain and q_shape[3:5] == k_shape[3:5] and q_shape[3] == 1
        shared = k_shape[GROUPS] < q_shape[GROUPS]
        everywhere = where.name == "rows" or (where.cut == GROUPS and shared)
        cached = keys == "heads" and context > 1
        q_spec, k_spec = _cut(spec, where.cut), _cut(spec, None if everywhere or cached else where.cut)
        k_spec = _all_heads(k_spec) if cached else k_spec
        shapes = (tuple(q_shape), tuple(k_shape))
        counted = (policy.positional, policy.unit)
        place = cls(where, *shapes, q_spec, k_spec, q_length, k_length, zigzag, *counted, context, cached)
        if (why := place._refuses(policy)) is not None:
            raise ValueError(f"partition: {where.name!r} {why}")
        return place

    @property
    def ring(self) -> Ring:
        return Ring(CONTEXT, self.where.ring, self.where.ulysses)

    @property
    def ulysses(self) -> Ulysses:
        return Ulysses(CONTEXT, self.where.ulysses, self.where.ring * self.where.ulysses)

    @property
    def moves(self) -> bool:
        """Whether operands lie differently inside the partition than outside."""
        return self.where.ulysses > 1 or self.zigzag

    @property
    def keys_move(self) -> bool:
        """The same for keys and values."""
        return self.moves and not self.cached

    @property
    def shared(self) -> bool:
        """Whether all groups of queries read the same keys."""
        return self.k_shape[GROUPS] < self.q_shape[GROUPS]

    @property
    def keys_everywhere(self) -> bool:
        """Whether the devices of the axis have different queries and the same keys."""
        return self.where.name == "rows" or (self.where.cut == GROUPS and self.shared)

    @property
    def k_frames(self) -> int:
        return self.k_shape[3]

    @property
    def q_width(self) -> int:
        """Tokens of the queries (of a frame) with padding."""
        if self.where.cut != TOKENS:
            return self.q_length
        return _up(self.q_shape[TOKENS], self._parts)

    @property
    def k_width(self) -> int:
        """Tokens of the keys (of a frame) with padding."""
        whole = self.cached or not self.where.exchanges
        return self.k_length if whole else _up(self.k_shape[TOKENS], self._parts)

    @property
    def padded_keys(self) -> int | None:
        """Keys (of a frame) beyond this number must be masked; None: kernels see no padding, or never look there."""
        if self.where.ring == 1 or self.k_width == self.k_length:
            return None
        unseen = self.zigzag and self.k_length % self.unit == 0  # the padding comes later than every query
        return None if unseen else self.k_length

    @property
    def q_inner(self) -> PartitionSpec:
        """Of the queries that have entered.  Each device has its own share of heads and tokens, whichever that is;
        counting all shares along the heads makes it an array of the mesh."""
        return _all_heads(self.q_spec) if self.moves else self.q_spec

    @property
    def k_inner(self) -> PartitionSpec:
        """Of keys and values that have entered."""
        return _all_heads(self.k_spec) if self.keys_move else self.k_spec

    def fit(self, x: Array, keys: bool = False) -> Array:
        """Pads an operand so that the axis divides it, drops padding that is in the way."""
        width = self.k_width if keys else self.q_width
        return resize(resize(x, TOKENS, width), GROUPS, self._groups(x.shape[GROUPS]))

    def unfit(self, out: Array, shape: Shape) -> Array:
        """The result as it was asked for."""
        return resize(resize(out, TOKENS, shape[TOKENS]), GROUPS, shape[GROUPS])

    def masks(self, policy: Policy) -> dict[str, Array]:
        """The masks that are arrays: `[B, G, T, S]` and, for `mask`, `[B | 1, G | 1, H | 1, Tq, Sq, Tk, Sk]`."""
        batch, groups = self.k_shape[0], self.k_shape[1]
        q_dims, k_dims = (self.q_shape[3], self.q_length), (self.k_shape[3], self.k_length)
        whole = self.where.ring == 1  # padding of the keys never reaches a kernel
        q_held = self.q_length if whole and self.where.exchanges else self.q_width
        k_held = self.k_length if whole else self.k_width
        found = {}
        for name, dims, held in (
            ("key_mask", k_dims, k_held),
            ("k_segments", k_dims, k_held),
            ("q_segments", q_dims, q_held),
        ):
            if (x := getattr(policy, name)) is not None:
                x = resize(x.reshape(batch, groups, *dims), 3, held)
                found[name] = resize(x, 1, self._groups(groups))
        if policy.mask is not None:
            lead = (batch, groups) if policy.mask.shape[0] > 1 else (1, 1)
            x = policy.mask.reshape(*lead, policy.mask.shape[1], *q_dims, *k_dims)
            x = resize(resize(x, 4, q_held), 6, k_held)
            found["mask"] = x if lead[1] == 1 else resize(x, 1, self._groups(groups))
        return found

    def mask_specs(self, masks: dict[str, Array], rows: bool) -> dict[str, PartitionSpec]:
        """Of `masks`.  A ring cuts a dense mask by the side that stays: queries forward (`rows`), keys backward."""
        batch, groups, heads = self.q_spec[:3]
        specs = {}
        for name, x in masks.items():
            tokens = CONTEXT if name == "q_segments" and self.where.name == "rows" else None
            specs[name] = PartitionSpec(batch, groups if x.shape[1] > 1 else None, None, tokens)
        if "mask" in masks:
            wide = [axis if size > 1 else None for axis, size in zip((batch, groups, heads), masks["mask"].shape)]
            cut = self.where.name == "rows" or (self.where.ring > 1 and self.where.ulysses == 1)
            side = (CONTEXT, None) if rows or self.where.name == "rows" else (None, CONTEXT)
            q_side, k_side = side if cut else (None, None)
            specs["mask"] = PartitionSpec(*wide, None, q_side, None, k_side)
        return specs

    @property
    def moving(self) -> bool:
        """Whether it is found at run time where a kernel's tile stands among the positions of the policy."""
        return self.where.ring > 1 and self.positional and not self.zigzag and self.q_shape[3] == 1

    def tile_policy(self, policy: Policy) -> Policy:
        """What kernels will be asked to honour: the policy, and a mask of padded keys where there is one."""
        if self.padded_keys is None or policy.key_mask is not None:
            return policy
        return dataclasses.replace(policy, key_mask=jax.ShapeDtypeStruct((self.k_shape[0], self.k_width), bool))

    def tile_shapes(self) -> tuple[Shape, Shape]:
        """`[B, H, N, D]` of the queries and keys of the largest kernel call."""

        def tile(shape: Shape, spec: PartitionSpec, width: int, length: int) -> Shape:
            b, g, h, t, s, d = shape
            b, g = b // _parts(spec[0]), self._groups(g) // _parts(spec[GROUPS])
            h //= _parts(self.q_spec[HEADS]) * self.where.ulysses
            if self.where.exchanges:
                s = width // self.where.ring if self.where.ring > 1 else length
            else:
                s = width // _parts(spec[TOKENS])
            return (b, h, g * t * s, d) if self.shared else (b * g, h, t * s, d)

        q_tile = tile(self.q_shape, self.q_spec, self.q_width, self.q_length)
        return q_tile, tile(self.k_shape, self.k_spec, self.k_width, self.k_length)

    @property
    def _parts(self) -> int:
        """What the width of a cut sequence must divide by."""
        return math.lcm(self.context, 2 * self.where.ring * self.unit) if self.zigzag else self.context

    def _groups(self, groups: int) -> int:
        return _up(groups, self.context) if self.where.cut == GROUPS and groups > 1 else groups

    def _refuses(self, policy: Policy) -> str | None:
        """One line of why this partition cannot honour a policy, or None."""
        by_row = policy.positional or policy.mask is not None or policy.q_segments is not None
        if self.shared and by_row:
            return "takes no mask by position, segment or query where all groups share their keys"
        if policy.bias is not None and self.where.name != "local":
            return "cannot cut a bias of the scores; use 'local'"
        if self.cached and self.where.name != "ulysses":
            return "exchanges tokens and cannot read a cache that is cut by heads; use 'ulysses', or over='tokens'"
        if self.where.name == "rows" and policy.positional:
            return "cannot tell positions, as its queries are only some of the tokens; use 'ulysses', 'ring' or 'auto'"
        frames = self.q_shape[3] > 1 or self.k_shape[3] > 1
        if self.where.ring > 1 and frames and policy.positional and policy.unit != self.k_length:
            return f"counts positions in frames of {self.k_length} tokens, the policy's unit is {policy.unit}"
        return None


def _cut(spec: list, dim: int | None) -> PartitionSpec:
    """`spec` with a dim cut over the context axis."""
    return PartitionSpec(*(CONTEXT if i == dim else entry for i, entry in enumerate(spec)))


def _all_heads(spec: PartitionSpec) -> PartitionSpec:
    """`spec` with heads cut over the context axis too, and tokens whole."""
    batch, groups, heads = spec[:3]
    return PartitionSpec(batch, groups, (*_axes(heads), CONTEXT), None, None, None)


def _up(size: int, parts: int) -> int:
    return -(-size // parts) * parts


def _axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes of one entry of a spec."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def _parts(entry) -> int:
    return math.prod(map(axis_size, _axes(entry)))
