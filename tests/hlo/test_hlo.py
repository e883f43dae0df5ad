"""Reading compiled modules: recorded ones of a TPU compiler, and lines of each kind that it writes.

tests/hlo/: four layers of x @ w1 @ w2 over v5p:4x4x4, weights gathered over fsdp (16, the axes y and z), tokens gathered and
sums scattered over expert (4, the axis x). Shapes per device: tokens 2048 x 2048, w1 128 x 1024, w2 1024 x 128, bfloat16.

Claim: the planner reads cycles, bytes and collectives from modules of the TPU compiler.
"""

import dataclasses
import functools
from pathlib import Path

import pytest

from dots_jax.config import UserError
from dots_jax.hlo import liveness as live
from dots_jax.hlo.interconnect import Interconnect, replica_groups, transfer
from dots_jax.hlo.kernel_cost import Expectation, kernel_work
from dots_jax.hlo.op_cost import Reader
from dots_jax.hlo.parser import Computation, Module, parse, parse_operation
from dots_jax.hlo.timeline import ScheduleSimulator
from dots_jax.parallel.topology import CHIPS

HLO = Path(__file__).parent
V5P = CHIPS["v5p"]
# Device i of the mesh fsdp 16 x expert 4: expert along x, fsdp over y and z.
CUBE = Interconnect(
    V5P, (("fsdp", 16), ("expert", 4)), tuple((0, x, y, z, 0) for y in range(4) for z in range(4) for x in range(4))
)


@functools.cache
def recorded(name: str) -> Module:
    return parse((HLO / f"{name}.txt").read_text())


@functools.cache
def timeline(name: str):
    return ScheduleSimulator(recorded(name), CUBE).walk()


def module_of(*lines: str, **computations: str) -> Module:
    """A module with these lines as its entry."""
    text = "HloModule m\n"
    for name, body in (computations | {"main": "\n".join(lines)}).items():
        text += f"\n{'ENTRY ' if name == 'main' else ''}%{name} (p: f32[]) -> f32[] {{\n"
        text += "".join(f"  {line}\n" for line in body.strip().split("\n")) + "}\n"
    return parse(text)


# --- parsing ------------------------------------------------------------------------------------------------------------


def test_an_operation_with_everything():
    op = parse_operation(
        '  ROOT %f.1 = (f32[2,3]{1,0:T(8,128)S(1)}, /*index=1*/bf16[4]{0}) fusion(%a.1, %b), kind=kLoop, calls=%c.2, '
        'metadata={op_name="jit(f)/experts/add"}, backend_config={"window_config":{"estimated_cycles":"123"}}'
    )  # fmt: skip
    assert (op.name, op.opcode, op.operands, op.root, op.cycles) == ("f.1", "fusion", ("a.1", "b"), True, 123)
    assert op.called("calls") == "c.2" and op.op_name == "jit(f)/experts/add"
    assert [(a.dtype, a.dims, a.space, a.bytes) for a in op.arrays] == [("f32", (2, 3), 1, 24), ("bf16", (4,), 0, 8)]
    assert op.arrays[0].padded_bytes == 8 * 128 * 4  # complete tiles


def test_no_estimate_is_no_number_of_cycles():
    op = parse_operation('  %a = f32[] add(%b, %c), backend_config={"estimated_cycles":"9223372036854775807"}')
    assert op.cycles is None


def test_attributes_over_several_lines_and_threads():
    module = parse(
        "HloModule m\n\n%other (a: f32[]) -> f32[] {\n  ROOT %a = f32[] parameter(0)\n"
        '}, execution_thread="sparsecore"\n\nENTRY %main (p: f32[2]) -> f32[2] {\n  %p = f32[2]{0} parameter(0)\n'
        '  %k = f32[2]{0} custom-call(%p), custom_call_target="tpu_custom_call", frontend_attributes={kernel={\n'
        '"metadata":"x"\n}}, metadata={op_name="here"}\n  ROOT %n = f32[2]{0} negate(%k)\n}\n'
    )
    assert list(module.computations) == ["other", "main"] and module.entry == "main"
    assert module.computations["main"].operations["k"].op_name == "here"


LOOP = """
%c0 = s32[] constant({first})
%l = s32[] {limit}
%t = (s32[], s32[]) tuple(%c0, %l)
ROOT %w = (s32[], s32[]) while(%t), condition=%cond, body=%body
"""
COND = """
%p = (s32[], s32[]) parameter(0)
%i = s32[] get-tuple-element(%p), index=0
%n = s32[] {limit}
ROOT %c = pred[] compare(%i, %n), direction=LT
"""
BODY = "ROOT %p = (s32[], s32[]) parameter(0)"


@pytest.mark.parametrize(
    "first, limit, condition, trips",
    [
        (0, "constant(7)", "constant(61)", 61),
        (2, "constant(7)", "get-tuple-element(%p), index=1", 5),
        (
            1,
            "parameter(0)",
            "get-tuple-element(%p), index=1",
            0,
        ),  # blocks of experts beyond the first: none when balanced
        (0, "parameter(0)", "get-tuple-element(%p), index=1", 1),
    ],
)
def test_trip_counts(first, limit, condition, trips):
    main = LOOP.strip().replace("{first}", str(first)).replace("{limit}", limit)
    module = module_of(*main.split("\n"), cond=COND.replace("{limit}", condition), body=BODY)
    loop = module.computations["main"].operations["w"]
    assert module.trip_count(loop, module.computations["main"]) == trips


# --- work ---------------------------------------------------------------------------------------------------------------


def test_flops_of_products_that_are_written_as_convolutions():
    """FLOPs of the four layers: 2 products of 8192 x 2048 x 1024 each."""
    flops = sum(step.trips * step.flops for step in timeline("steps").compute)
    assert flops == 4 * 2 * 2 * 8192 * 2048 * 1024


def test_bytes_count_slices_of_stacked_weights_and_updates_in_place():
    module = module_of(
        "%w = f32[61,8,128]{2,1,0} parameter(0)", "%i = s32[] parameter(1)", "%u = f32[1,8,128]{2,1,0} parameter(2)",
        "ROOT %f = f32[61,8,128]{2,1,0} fusion(%w, %i, %u), kind=kLoop, calls=%fused",
        "%g = bf16[1,8,128]{2,1,0} fusion(%w, %i), kind=kLoop, calls=%sliced",
        fused="""
%a = f32[61,8,128]{2,1,0} parameter(0)
%b = s32[] parameter(1)
%c = f32[1,8,128]{2,1,0} parameter(2)
ROOT %d = f32[61,8,128]{2,1,0} dynamic-update-slice(%a, %c, %b, %b, %b)""",
        sliced="""
%a = f32[61,8,128]{2,1,0} parameter(0)
%b = s32[] parameter(1)
%v = bf16[61,8,128]{2,1,0} convert(%a)
ROOT %s = bf16[1,8,128]{2,1,0} dynamic-slice(%v, %b, %b, %b), dynamic_slice_sizes={1,8,128}""",
    )  # fmt: skip
    main, reader = module.computations["main"], Reader(module)
    piece = 8 * 128
    assert (
        reader.work(main.operations["f"], main).bytes == piece * (4 + 4) + 4
    )  # the update read and written, the index
    assert reader.work(main.operations["g"], main).bytes == piece * (4 + 2) + 4  # a slice in float32, out in bfloat16


def test_work_of_another_core_counts_once():
    """A call that starts another, as gathers on a SparseCore do: what waits for it moves no bytes."""
    rows, gathered = "bf16[64,128]{1,0}", "bf16[512,128]{1,0}"
    inner = f"""
%x = {rows} parameter(0)
%i = s32[512,1]{{1,0}} parameter(1)
ROOT %g = {gathered} gather(%x, %i), offset_dims={{1}}, collapsed_slice_dims={{0}}, slice_sizes={{1,128}}
"""
    outer = f"""
%x = {rows} parameter(0)
%i = s32[512,1]{{1,0}} parameter(1)
%s = (({rows}, s32[512,1]{{1,0}}), {gathered}, u32[]) call-start(%x, %i), to_apply=%inner
ROOT %d = {gathered} call-done(%s)
"""
    module = module_of(
        f"%x = {rows} parameter(0)", "%i = s32[512,1]{1,0} parameter(1)",
        f"%s = (({rows}, s32[512,1]{{1,0}}), {gathered}, u32[]) call-start(%x, %i), to_apply=%outer",
        f"ROOT %d = {gathered} call-done(%s)", outer=outer, inner=inner,
    )  # fmt: skip
    main = module.computations["main"]
    assert Reader(module).work(main.operations["s"], main).bytes == 2 * 512 * 128 * 2


def kernel(line: str, *operands: str):
    module = module_of(*operands, line)
    main = module.computations["main"]
    return main.operations["k"], main


def test_grouped_matmul_costs_the_expected_rows():
    op, home = kernel(
        '%k = bf16[1280,256]{1,0} custom-call(%x, %w), custom_call_target="tpu_custom_call", '
        'metadata={op_name="experts/jit(gmm)/pallas_call"}, backend_config={"cost_estimate":{"flops":"1000",'
        '"transcendentals":"0","bytes_accessed":"500"}}',
        "%x = bf16[1280,512]{1,0} parameter(0)", "%w = bf16[8,512,256]{2,1,0} parameter(1)",
    )  # fmt: skip
    assert kernel_work(op, home, Expectation()) == (1000, 500)
    assert kernel_work(op, home, Expectation(rows=1024, buffer=1.25)) == (800, 400)
    assert kernel_work(op, home, Expectation(rows=2048, buffer=1.25)) == (800, 400)  # the tokens come in two pieces
    assert kernel_work(op, home, Expectation(rows=1280)) == (1000, 500)


def test_a_kernel_without_a_matrix_product_takes_its_bytes_or_three_times_them():
    """As the compiler's own estimates of element-wise work do, against their floor; not what attention would take."""
    module = module_of(
        "%x = bf16[1024,512]{1,0} parameter(0)",
        'ROOT %k = bf16[1024,512]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", '
        'metadata={op_name="attention/norm_rope/pallas_call"}, backend_config={"cost_estimate":{"flops":"0",'
        '"transcendentals":"0","bytes_accessed":"2097152"}}',
    )  # fmt: skip
    walked = ScheduleSimulator(module, CUBE).walk()
    (step,) = walked.compute
    assert step.seconds["compiler"] == pytest.approx(3 * 2097152 / V5P.hbm)
    assert step.seconds["floor"] == pytest.approx(2097152 / V5P.hbm)
    # Named where it is, and not in the timeline of another module.
    assert walked.unknown_kernels == ("k",) and timeline("sparse_cores").unknown_kernels == ()


@pytest.mark.parametrize(
    "name, result, products",
    [
        ("splash_mha_fwd", "bf16[2,4,64,32]", 2),
        ("splash_mha_dkv", "(f32[2,4,64,32], f32[2,4,64,32], f32[2,4,64,32])", 5),
    ],
)
def test_causal_attention_costs_half_the_square(name, result, products):
    op, home = kernel(
        f'%k = {result} custom-call(%mask, %q, %q), custom_call_target="tpu_custom_call", metadata={{op_name="attention/{name}"}}',
        "%mask = s8[1,8,8]{2,1,0} parameter(0)", "%q = bf16[2,4,64,32]{3,2,1,0} parameter(1)",
    )  # fmt: skip
    assert kernel_work(op, home, Expectation())[0] == products * 2 * 2 * 4 * (64 * 64 / 2) * 32


# --- collectives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, groups",
    [
        ("replica_groups={{0,1},{2,3}}", ((0, 1), (2, 3))),
        ("replica_groups=[2,2]<=[4]", ((0, 1), (2, 3))),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=4] {'a':(1)2}", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=4] {'a':(2)2}", ((0, 1), (2, 3))),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", ((0, 2), (1, 3))),
        ("replica_groups={}", ((0, 1, 2, 3),)),
    ],
)
def test_replica_groups(text, groups):
    assert replica_groups(f", channel_id=1, {text}, use_global_device_ids=true", 4) == groups


def collective(kind: str, operand: str, result: str, group: tuple[int, ...], network: Interconnect):
    module = module_of(
        f"%a = {operand} parameter(0)", f"%c = {result} {kind}(%a), replica_groups={{{{{','.join(map(str, group))}}}}}"
    )
    main = module.computations["main"]
    return transfer(kind, main.operations["c"], main, network)


def test_time_of_collectives_on_a_torus():
    """V (g - 1) / g over 90 GB/s a link and direction, twice on a ring, all axes that a group spans."""
    x, plane = (0, 1, 2, 3), tuple(range(0, 64, 4))
    gathered = collective("all-gather", "bf16[1000]", "bf16[4000]", x, CUBE)
    assert (gathered.axes, gathered.links, gathered.bytes) == ("expert", ("x",), 8000)
    assert gathered.seconds == pytest.approx(8000 * 3 / 4 / 180e9)
    scattered = collective("reduce-scatter", "bf16[16000]", "bf16[1000]", plane, CUBE)
    assert (scattered.axes, scattered.links) == ("fsdp", ("y", "z"))
    assert scattered.seconds == pytest.approx(32000 * 15 / 16 / 360e9)
    reduced = collective("all-reduce", "bf16[1000]", "bf16[1000]", tuple(range(64)), CUBE)
    assert reduced.axes == "fsdp x expert" and reduced.seconds == pytest.approx(2 * 2000 * 63 / 64 / 540e9)
    exchanged = collective("all-to-all", "bf16[4000]", "bf16[4000]", x, CUBE)
    assert exchanged.seconds == pytest.approx(8000 * 4 / 8 / 90e9)


def test_lines_strides_and_levels():
    across = Interconnect(V5P, (("fsdp", 2),), ((0, 0, 0, 0, 0), (0, 1, 1, 0, 0)))  # a diagonal: one link
    assert collective("all-gather", "f32[4]", "f32[8]", (0, 1), across).seconds == pytest.approx(32 / 2 / 90e9)
    line = Interconnect(V5P, (("fsdp", 2),), ((0, 0, 0, 0, 0), (0, 1, 0, 0, 0)))  # two chips: nothing closes to a ring
    assert collective("all-gather", "f32[4]", "f32[8]", (0, 1), line).seconds == pytest.approx(32 / 2 / 90e9)
    # Half of an axis of eight, every second chip: what lies between shares the links.
    axis = Interconnect(
        V5P, (("fsdp", 8),), tuple((0, x, y, z, 0) for x in range(8) for y in range(4) for z in range(4))
    )
    assert axis.links((0, 32, 64, 96)) == {"x": 45e9 * 2}
    assert axis.links((0, 16, 32, 48)) == {"x": 90e9}
    slices = Interconnect(V5P, (("data", 2),), ((0, 0, 0, 0, 0), (1, 0, 0, 0, 0)))
    between = collective("all-reduce", "f32[100]", "f32[100]", (0, 1), slices)
    assert between.links == ("dcn",) and between.seconds == pytest.approx(2 * 400 / 2 / (25e9 / 4))
    places = tuple((0, x, y, z, c) for x in range(4) for y in range(4) for z in range(4) for c in (0, 1))
    two = Interconnect(CHIPS["tpu7x"], (("fsdp", 8),), places)
    gathered = collective("all-gather", "f32[100]", "f32[800]", (0, 1, 32, 33, 64, 65, 96, 97), two)
    assert gathered.seconds == pytest.approx(3200 / 2 / (6 * 90e9) + 1600 * 3 / 4 / 90e9)


def rows(name: str) -> dict:
    found = {}
    for step in timeline(name).collectives:
        key = (step.transfer.kind, step.transfer.axes, step.asynchronous)
        count, exposed = found.get(key, (0, 0.0))
        found[key] = (count + step.trips, exposed + step.trips * step.exposed["compiler"])
    return found


def test_collectives_in_steps_are_hidden_by_what_carries_them():
    found = rows("steps")
    assert found[("all-gather", "fsdp", True)] == (4, 0.0)  # under a product that takes longer
    assert found[("all-gather", "fsdp", False)][0] == 4
    # The compiler's reduce-scatter is a fusion with an all-reduce in it, of which a part is kept.
    assert found[("reduce-scatter", "expert", False)] == (4, pytest.approx(4 * 8320 * 2048 * 2 * 3 / 4 / 180e9))


def test_collectives_on_the_sparse_cores_hide_what_runs_until_they_are_done():
    found = rows("sparse_cores")
    count, exposed = found[("all-gather", "expert", True)]
    alone = 4 * 8192 * 2048 * 2 * 3 / 4 / 180e9
    assert count == 4 and 0 < exposed < alone
    assert found[("reduce-scatter", "expert", True)][0] == 4
    assert sum(step.exposed["compiler"] for step in timeline("sparse_cores").collectives if not step.asynchronous) > 0


def test_the_sum_of_the_parts_is_the_step():
    walked = timeline("steps")
    assert walked.seconds()["compiler"] == pytest.approx(
        walked.compute_seconds("compiler") + walked.exposed_seconds("compiler")
    )
    assert walked.seconds()["calibrated"] > 0
    assert walked.seconds()["overlapped"] <= walked.seconds()["floor"] <= walked.seconds()["compiler"]
    assert {step.part for step in walked.compute if step.flops} == {"experts"}


def test_transfers_on_the_same_links_queue():
    """Two gathers that start together: the second waits for the first, and both for what hides them."""
    gather = "(bf16[1000], bf16[4000]) all-gather-start(%p), replica_groups={{0,1,2,3}}"
    module = module_of(
        "%p = bf16[1000]{0} parameter(0)", f"%s1 = {gather}", f"%s2 = {gather}", "%d1 = bf16[4000] all-gather-done(%s1)",
        "ROOT %d2 = bf16[4000] all-gather-done(%s2)",
    )  # fmt: skip
    one = 8000 * 3 / 4 / 180e9
    walked = ScheduleSimulator(module, CUBE).walk()
    assert [step.exposed["floor"] for step in walked.collectives] == [pytest.approx(one), pytest.approx(one)]
    assert walked.seconds()["floor"] == pytest.approx(2 * one)


# --- memory -------------------------------------------------------------------------------------------------------------


def test_what_lies_in_memory_at_the_fullest_moment():
    module = module_of(
        "%p = f32[1024,1024]{1,0:T(8,128)} parameter(0)",
        "%a = f32[1024,1024]{1,0:T(8,128)} negate(%p)",  # dies at b
        "%b = f32[2048,1024]{1,0:T(8,128)} broadcast(%a)",
        "%s = f32[2048,1024]{1,0:T(8,128)S(1)} copy(%b)",  # not in HBM
        "ROOT %c = f32[8,1024]{1,0:T(8,128)} slice(%s)",
    )
    found = live.peak(module)
    assert found.bytes == (1 + 2) * 2**22
    assert [buffer.shape for buffer in found.buffers] == ["f32[2048,1024]", "f32[1024,1024]"]


def test_the_account_of_a_recorded_module_is_the_compilers():
    """The compiler's temporaries of this module are 58.9 MB and its outputs 8.4 MB, gaps between buffers included."""
    assert 0.85 * 67.3e6 < live.peak(recorded("sparse_cores")).bytes < 67.3e6


def test_trees_of_types():
    tree = live.parse_tree("(f32[2]{0}, (s32[], /*index=2*/bf16[4,8]{1,0:T(8,128)(2,1)}))")
    assert tree[0].dims == (2,) and tree[1][1].dims == (4, 8) and isinstance(tree[1], tuple)


def test_a_computation_knows_its_users():
    home: Computation = module_of("%a = f32[] parameter(0)", "ROOT %b = f32[] add(%a, %a)").computations["main"]
    assert [op.name for op in home.users["a"]] == ["b"]


def test_slices_have_a_program_each():
    """Of two slices, the compiler gives the program of one; what crosses goes out and comes back by way of the hosts."""
    places = tuple((s, x, y, 0, 0) for s in range(2) for x in range(2) for y in range(2))
    pod = Interconnect(V5P, (("data", 2), ("fsdp", 4)), places)
    text = """HloModule m, num_partitions=4

ENTRY %main (p: f32[1048576]) -> f32[1048576] {
  %p = f32[1048576] parameter(0)
  %t = token[] after-all()
  %all = f32[1048576] all-reduce(%p), replica_groups={{0,1,2,3}}, to_apply=%add
  %send = (f32[1048576], u32[], token[]) send(%all, %t), channel_id=2, is_host_transfer=true
  %recv = (f32[1048576], u32[], token[]) recv(%t), channel_id=1, is_host_transfer=true
  %sent = token[] send-done(%send), channel_id=2, is_host_transfer=true
  %done = (f32[1048576], token[]) recv-done(%recv), channel_id=1, is_host_transfer=true
  ROOT %out = f32[1048576] get-tuple-element(%done), index=0
}
"""
    inside, across = [step.transfer for step in ScheduleSimulator(parse(text), pod).walk().steps]
    assert (inside.axes, inside.links) == ("fsdp", ("x", "y"))
    assert (across.kind, across.axes, across.links, across.bytes) == ("all-reduce", "data", ("dcn",), 2**22)
    assert across.seconds == pytest.approx(2**22 / (V5P.dcn / V5P.chips_per_host / V5P.devices))
    with pytest.raises(UserError, match="for 4 devices, but the topology has 16"):
        ScheduleSimulator(
            parse(text), dataclasses.replace(pod, places=tuple((s, *p[1:]) for s in range(2) for p in places))
        )
