"""What is read from a compiled GPU program."""

from benchmarks.gpu_program import traffic

PROGRAM = """\
HloModule jit_f, is_scheduled=true

%fused_add (param_0: f32[8,4], param_1: f32[8,4]) -> (f32[8,4], f32[8,4]) {
  %param_0 = f32[8,4]{1,0} parameter(0)
  %param_1 = f32[8,4]{1,0} parameter(1)
  %add = f32[8,4]{1,0} add(%param_0, %param_1), metadata={op_name="jit(f)/add"}
  ROOT %both = (f32[8,4]{1,0}, /*index=1*/f32[8,4]{1,0}) tuple(%add, %param_1)
}

%put_row (param_0.1: f32[8,4], param_1.1: s32[], param_2: bf16[8,4]) -> f32[8,4] {
  %param_0.1 = f32[8,4]{1,0} parameter(0)
  %param_1.1 = s32[] parameter(1)
  %param_2 = bf16[8,4]{1,0} parameter(2)
  %zero = s32[] constant(0)
  %row = bf16[1,4]{1,0} dynamic-slice(%param_2, %param_1.1, %zero), dynamic_slice_sizes={1,4}
  %wide = f32[1,4]{1,0} convert(%row)
  ROOT %put = f32[8,4]{1,0} dynamic-update-slice(%param_0.1, %wide, %param_1.1, %zero)
}

%body (carry: (s32[], f32[8,4], bf16[8,4])) -> (s32[], f32[8,4], bf16[8,4]) {
  %carry = (s32[], f32[8,4]{1,0}, bf16[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %x = f32[8,4]{1,0} get-tuple-element(%carry), index=1
  %y = bf16[8,4]{1,0} get-tuple-element(%carry), index=2
  %filled = f32[8,4]{1,0} fusion(%x, %i, %y), kind=kLoop, calls=%put_row
  ROOT %next = (s32[], f32[8,4]{1,0}, bf16[8,4]{1,0}) tuple(%i, %filled, %y)
}

%condition (carry.1: (s32[], f32[8,4], bf16[8,4])) -> pred[] {
  %carry.1 = (s32[], f32[8,4]{1,0}, bf16[8,4]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (a: f32[8,4], b: f32[8,4], c: bf16[8,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %b = f32[8,4]{1,0} parameter(1)
  %c = bf16[8,4]{1,0} parameter(2)
  %start = s32[] constant(0)
  %sum = (f32[8,4]{1,0}, f32[8,4]{1,0}) fusion(%a, %b), kind=kLoop, calls=%fused_add
  %of_sum = f32[8,4]{1,0} get-tuple-element(%sum), index=0
  %kernel = f32[8,4]{1,0} custom-call(%of_sum, %a, %a), custom_call_target="__gpu$x"
  %init = (s32[], f32[8,4]{1,0}, bf16[8,4]{1,0}) tuple(%start, %kernel, %c)
  %loop = (s32[], f32[8,4]{1,0}, bf16[8,4]{1,0}) while(%init), condition=%condition, \
body=%body, backend_config={"known_trip_count":{"n":"8"}}
  ROOT %result = f32[8,4]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_launches_and_bytes_are_counted_where_they_happen():
    array, row, index = 8 * 4 * 4, 4, 4
    fusion = 4 * array  # two read, two written
    kernel = 3 * array  # what is passed twice is read once
    one_row = 4 * row + 2 * row + index  # written; read as bf16; the index
    assert traffic(PROGRAM) == (2 + 8, fusion + kernel + 8 * one_row)
