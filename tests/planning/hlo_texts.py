# ruff: noqa: E501
"""Compiled programs in small, with every spelling and every trap of the real ones."""

# A loop of five turns around a loop of three; the outer one says its trip count, the inner one only in its condition.
NESTED = """HloModule nested, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner_body (p: (s32[], f32[16,4])) -> (s32[], f32[16,4]) {
  %p = (s32[], f32[16,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[16,4]{1,0} get-tuple-element(%p), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %reduced = f32[16,4]{1,0} all-reduce(%x), channel_id=3, replica_groups=[4,2]<=[8], use_global_device_ids=true, to_apply=%add
  ROOT %t = (s32[], f32[16,4]{1,0}) tuple(%next, %reduced)
}

%inner_condition (p.1: (s32[], f32[16,4])) -> pred[] {
  %p.1 = (s32[], f32[16,4]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %bound = s32[] constant(3)
  ROOT %less = pred[] compare(%i.1, %bound), direction=LT
}

%outer_body (q: (s32[], f32[16,4])) -> (s32[], f32[16,4]) {
  %q = (s32[], f32[16,4]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %y = f32[16,4]{1,0} get-tuple-element(%q), index=1
  %zero = s32[] constant(0)
  %start = (s32[], f32[16,4]{1,0}) tuple(%zero, %y)
  %inner = (s32[], f32[16,4]{1,0}) while(%start), condition=%inner_condition, body=%inner_body
  %z = f32[16,4]{1,0} get-tuple-element(%inner), index=1
  %moved = f32[16,4]{1,0} all-to-all(%z), channel_id=4, replica_groups={{0,2,4,6},{1,3,5,7}}, dimensions={0}
  ROOT %u = (s32[], f32[16,4]{1,0}) tuple(%j, %moved)
}

%outer_condition (q.1: (s32[], f32[16,4])) -> pred[] {
  %q.1 = (s32[], f32[16,4]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (arg: f32[16,4]) -> f32[16,4] {
  %arg = f32[16,4]{1,0} parameter(0)
  %nought = s32[] constant(0)
  %begin = (s32[], f32[16,4]{1,0}) tuple(%nought, %arg)
  %outer = (s32[], f32[16,4]{1,0}) while(%begin), condition=%outer_condition, body=%outer_body, backend_config={"known_trip_count":{"n":"5"},"x":"}"}
  ROOT %out = f32[16,4]{1,0} get-tuple-element(%outer), index=1
}
"""

# Asynchronous pairs with work between, a fused reduce-scatter, one transfer carried along by three fusions, a kernel
# with a payload of several lines, and buffers in fast memory.
SCHEDULE = """HloModule schedule, is_scheduled=true, num_partitions=4

%add (a: bf16[], b: bf16[]) -> bf16[] {
  %a = bf16[] parameter(0)
  %b = bf16[] parameter(1)
  ROOT %sum = bf16[] add(%a, %b)
}

%all-reduce-scatter.1 (p0: bf16[1024,64]) -> bf16[256,64] {
  %p0 = bf16[1024,64]{1,0:T(8,128)(2,1)} parameter(0)
  %whole = bf16[1024,64]{1,0:T(8,128)(2,1)} all-reduce(%p0), channel_id=7, replica_groups={{0,1,2,3}}, to_apply=%add
  %at = s32[] constant(0)
  ROOT %mine = bf16[256,64]{1,0:T(8,128)(2,1)} dynamic-slice(%whole, %at, %at), dynamic_slice_sizes={256,64}
}

%carry.1 (p1: bf16[64,128]) -> (bf16[64,128], bf16[256,128], u32[]) {
  %p1 = bf16[64,128]{1,0} parameter(0)
  %flag = u32[] constant(0)
  %gather.1 = bf16[256,128]{1,0} all-gather(%p1), channel_id=9, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %began = (bf16[64,128]{1,0}, bf16[256,128]{1,0}, u32[]) tuple(%p1, %gather.1, %flag)
}

%carry.2 (p2: bf16[64,128], p6: bf16[256,128], p7: u32[]) -> bf16[256,128] {
  %p2 = bf16[64,128]{1,0} parameter(0)
  %p6 = bf16[256,128]{1,0} parameter(1)
  %p7 = u32[] parameter(2)
  ROOT %gather.2 = bf16[256,128]{1,0} all-gather(%p2), channel_id=9, replica_groups={{0,1,2,3}}, dimensions={0}
}

%wrapped (p3: bf16[64,64]) -> bf16[64,64] {
  %p3 = bf16[64,64]{1,0} parameter(0)
  ROOT %exchange = bf16[64,64]{1,0} all-to-all(%p3), channel_id=11, replica_groups={{0,1,2,3}}, dimensions={0}
}

%product (p4: bf16[256,1024], p5: bf16[1024,512]) -> bf16[256,512] {
  %p4 = bf16[256,1024]{1,0} parameter(0)
  %p5 = bf16[1024,512]{1,0} parameter(1)
  ROOT %dot = bf16[256,512]{1,0} dot(%p4, %p5), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (w: bf16[64,128], l: bf16[256,1024], r: bf16[1024,512], g: bf16[1024,64], e: bf16[64,64]) -> bf16[256,512] {
  %w = bf16[64,128]{1,0} parameter(0)
  %l = bf16[256,1024]{1,0} parameter(1)
  %r = bf16[1024,512]{1,0} parameter(2)
  %g = bf16[1024,64]{1,0:T(8,128)(2,1)} parameter(3)
  %e = bf16[64,64]{1,0} parameter(4)
  %ag-start = (bf16[64,128]{1,0}, bf16[256,128]{1,0:T(8,128)S(1)}) all-gather-start(%w), channel_id=5, replica_groups=mesh['a'=4] {'a'}, dimensions={0}
  %busy = bf16[256,512]{1,0} fusion(%l, %r), kind=kOutput, calls=%product
  %ag-done = bf16[256,128]{1,0:T(8,128)S(1)} all-gather-done(%ag-start)
  %scattered = bf16[256,64]{1,0:T(8,128)(2,1)} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
  %kernel = bf16[64,64]{1,0} custom-call(%e), custom_call_target="tpu_custom_call", backend_config={"body": "module {
}
  func @k() { all-reduce(%fake) \\" }
}
", "other": 1}
  %exchange-start = ((bf16[64,64]{1,0}), bf16[64,64]{1,0}, u32[]) async-start(%kernel), calls=%wrapped
  %exchange-done = bf16[64,64]{1,0} async-done(%exchange-start)
  %carry-start = (bf16[64,128]{1,0}, bf16[256,128]{1,0}, u32[]) fusion(%w), kind=kCustom, calls=%carry.1
  %c0 = bf16[64,128]{1,0} get-tuple-element(%carry-start), index=0
  %c1 = bf16[256,128]{1,0} get-tuple-element(%carry-start), index=1
  %c2 = u32[] get-tuple-element(%carry-start), index=2
  %busy.2 = bf16[256,512]{1,0} fusion(%l, %r), kind=kOutput, calls=%product
  %carry-done = bf16[256,128]{1,0} fusion(%c0, %c1, %c2), kind=kCustom, calls=%carry.2
  %shifted = bf16[64,64]{1,0} collective-permute(%e), channel_id=12, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  ROOT %sum.9 = bf16[256,512]{1,0} add(%busy, %busy.2)
}
"""

# A fusion that reads one layer of a stack and writes one layer of another, in place.
SLICES = """HloModule slices, is_scheduled=true, num_partitions=1

%layer (s0: f32[40,8,128], s1: f32[40,8,128], n: s32[]) -> f32[40,8,128] {
  %s0 = f32[40,8,128]{2,1,0} parameter(0)
  %s1 = f32[40,8,128]{2,1,0} parameter(1)
  %n = s32[] parameter(2)
  %z = s32[] constant(0)
  %own = f32[1,8,128]{2,1,0} dynamic-slice(%s0, %n, %z, %z), dynamic_slice_sizes={1,8,128}
  %twice = f32[1,8,128]{2,1,0} add(%own, %own)
  ROOT %put = f32[40,8,128]{2,1,0} dynamic-update-slice(%s1, %twice, %n, %z, %z)
}

ENTRY %main (from: f32[40,8,128], into: f32[40,8,128], at: s32[]) -> f32[40,8,128] {
  %from = f32[40,8,128]{2,1,0} parameter(0)
  %into = f32[40,8,128]{2,1,0} parameter(1)
  %at = s32[] parameter(2)
  ROOT %done = f32[40,8,128]{2,1,0} fusion(%from, %into, %at), kind=kLoop, calls=%layer
}
"""

# A gradient summed over two slices: a host transfer of each device, with work between.
SLICED = """HloModule sliced, is_scheduled=true, num_partitions=8

ENTRY %main (g: bf16[64,128], l: bf16[256,1024], r: bf16[1024,512]) -> bf16[64,128] {
  %g = bf16[64,128]{1,0} parameter(0)
  %l = bf16[256,1024]{1,0} parameter(1)
  %r = bf16[1024,512]{1,0} parameter(2)
  %token = token[] after-all(), frontend_attributes={MegascaleRendezvousKeyName="all-reduce.1_0"}
  %send.1 = (bf16[64,128]{1,0}, u32[], token[]) send(%g, %token), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="all-reduce.1_0",_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv.1 = (bf16[64,128]{1,0}, u32[], token[]) recv(%token), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_host_transfer_rendezvous="all-reduce.1_0",_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %busy = bf16[256,512]{1,0} dot(%l, %r), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %send-done.1 = token[] send-done(%send.1), channel_id=2, is_host_transfer=true
  %recv-done.1 = (bf16[64,128]{1,0}, token[]) recv-done(%recv.1), channel_id=1, is_host_transfer=true
  ROOT %sum = bf16[64,128]{1,0} get-tuple-element(%recv-done.1), index=0
}
"""
