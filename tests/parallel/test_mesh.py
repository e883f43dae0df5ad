"""Where parameters land: the rule table, its errors, dots.llm1 on 512 devices, and gathers inside shard_map."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, PartitionSpec
from numerics import assert_close, equations

from dots_jax.config import ComputeConfig, MeshConfig, OptimizerConfig, UserError, dots_llm1, tiny
from dots_jax.model.model_def import ModelDef
from dots_jax.parallel import mesh as meshes
from dots_jax.parallel.collectives import axis_sizes, gather_parameter, gather_parameter_fused, pvary
from dots_jax.parallel.mesh import AXES, make_mesh
from dots_jax.parallel.sharding import TOKENS, batch_sharding, parameter_spec, replicated
from dots_jax.training.optimizer import make_optimizer
from dots_jax.training.state import abstract_state, bytes_per_device

POD = AbstractMesh((2, 32, 8, 1), AXES)
LONG = AbstractMesh((1, 16, 8, 4), AXES)


def test_mesh_takes_the_devices_that_are_left():
    mesh = make_mesh(MeshConfig(data=2, fsdp=-1, expert=2).resolve(jax.device_count()))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "expert": 2, "context": 1}
    assert list(mesh.devices.flat) == jax.devices()
    long = make_mesh(MeshConfig(fsdp=-1, context=4).resolve(jax.device_count()))
    assert dict(long.shape) == {"data": 1, "fsdp": 2, "expert": 1, "context": 4}
    assert make_mesh(MeshConfig(data=1, fsdp=1, expert=1)).size == 1
    with pytest.raises(UserError, match="needs 16 devices, but there are 8"):
        MeshConfig(data=16).resolve(8)


class _Tpu(SimpleNamespace):
    platform = "tpu"


@pytest.mark.parametrize(
    "shape, axis", [((2, 2, 2, 1), 0), ((4, 2, 1, 1), 0), ((1, 4, 2, 1), 1), ((3, 2, 2, 1), 1), ((2, 1, 2, 2), 0)]
)
def test_slices_lie_along_data_or_fsdp(monkeypatch, shape, axis):
    """jax's mesh_utils know the wires of one slice; two slices meet on one axis only."""

    def one_slice(shape, devices, **_):
        assert len({device.slice_index for device in devices}) == 1
        return np.array(devices, object).reshape(shape)

    monkeypatch.setattr(mesh_utils, "create_device_mesh", one_slice)
    half = int(np.prod(shape)) // 2
    devices = [_Tpu(slice_index=index, number=number) for number in range(half) for index in (1, 0)]
    placed = meshes._over_slices(shape, devices)
    assert placed.shape == shape
    for number, part in enumerate(np.split(placed, 2, axis=axis)):
        assert {device.slice_index for device in part.flat} == {number}
        assert sorted(device.number for device in part.flat) == list(range(half))
    with pytest.raises(UserError, match="There are 2 slices, but MeshConfig.data = 1 and MeshConfig.fsdp = 3"):
        meshes._over_slices((1, 3, 2, 1), devices)


@pytest.mark.parametrize("shape, torus", [((4, 16, 8, 1), (8, 8, 8)), ((1, 32, 8, 1), (16, 16, 1))])
def test_a_mesh_may_share_an_axis_of_the_torus(monkeypatch, shape, torus):
    """Whole rings are not always enough: the mesh is formed all the same, with `expert` along one axis."""

    def whole_axes_only(*_, **__):
        raise NotImplementedError

    monkeypatch.setattr(jax, "make_mesh", whole_axes_only)
    kind = "TPU v5" if torus[2] > 1 else "TPU v6 lite"
    devices = [
        _Tpu(id=number, coords=coords, core_on_chip=0, device_kind=kind, process_index=number // 4)
        for number, coords in enumerate(np.ndindex(torus))
    ]
    placed = meshes._over_slices(shape, devices)
    assert placed.shape == shape and len({device.id for device in placed.flat}) == len(devices)
    moved = np.ptp([device.coords for device in placed[0, 0, :, 0]], axis=0)
    assert sorted(moved) == [0, 0, 7]


@pytest.mark.parametrize("shape", [(1, 32, 8, 1), (2, 16, 8, 1), (1, 32, 4, 2)])
def test_the_two_devices_of_a_chip_are_half_of_fsdp_apart(shape):
    """What is gathered over fsdp crosses the links between chips once a chip: a plane of 4 x 4 and both devices of a chip."""
    devices = [
        _Tpu(id=number, coords=place[:3], core_on_chip=place[3], device_kind="TPU7x", process_index=number // 8)
        for number, place in enumerate(np.ndindex(4, 4, 8, 2))
    ]
    placed = meshes._over_slices(shape, devices)
    assert placed.shape == shape and len({device.id for device in placed.flat}) == len(devices)
    one, other = np.split(placed, 2, axis=1)
    for here, there in zip(one.flat, other.flat, strict=True):
        assert here.coords == there.coords and (here.core_on_chip, there.core_on_chip) == (0, 1)


def test_devices_of_a_chip_lie_anywhere_if_fsdp_is_odd():
    devices = [
        _Tpu(id=number, coords=(0, 0, 0), core_on_chip=number, device_kind="TPU7x", process_index=0)
        for number in (0, 1)
    ]
    assert {device.id for device in meshes._over_slices((2, 1, 1, 1), devices).flat} == {0, 1}


@pytest.mark.parametrize(
    "logical, shape, mesh, expected",
    [
        # The leading axis takes all that divides it, and nothing is left for the next.
        (("vocab", "embed"), (152_064, 4096), POD, (("fsdp", "expert"), None)),
        (("vocab", "embed"), (152_064, 4096), LONG, (("fsdp", "expert", "context"), None)),
        (("embed", "vocab"), (4096, 152_064), LONG, (("fsdp", "expert", "context"), None)),
        (("embed", "heads", "head_dim"), (4096, 32, 128), POD, (("fsdp", "expert"), None, None)),
        (("heads", "head_dim", "embed"), (32, 128, 4096), LONG, (None, None, ("fsdp", "expert", "context"))),
        (("ffn", "embed"), (10_944, 4096), POD, (("fsdp",), ("expert",))),  # 32 divides 10 944, and 256 does not
        # Experts to which tokens travel keep the expert axis for themselves, and fsdp as well if it divides.
        (("expert", "expert_embed", "expert_ffn"), (128, 4096, 2816), POD, (("expert",), ("fsdp",), None)),
        (("expert", "expert_embed", "expert_ffn"), (128, 4096, 2816), LONG, (("expert", "fsdp"), ("context",), None)),
        (("expert", "expert_ffn", "expert_embed"), (61, 128, 1408, 4096), POD, (None, ("expert",), ("fsdp",), None)),
        # Experts that travel to the tokens are cut in any way.
        (("stored_expert", "embed", "ffn"), (61, 128, 4096, 2816), POD, (None, ("fsdp",), ("expert",), None)),
        (("embed", "router"), (4096, 128), POD, (("fsdp", "expert"), None)),
        (("embed",), (100,), POD, (None,)),  # nothing divides 100: complete
        (("embed",), (64,), POD, (("fsdp",),)),  # and 64 as far as it goes
        (("head_dim",), (128,), POD, (None,)),
    ],
)
def test_the_rule_table(logical, shape, mesh, expected):
    assert parameter_spec(logical, shape, mesh.shape) == PartitionSpec(*expected)


def test_a_mesh_axis_is_used_once():
    """Where two axes of a parameter could take it, the first one does."""
    assert parameter_spec(("embed", "embed"), (4096, 4096), POD.shape) == PartitionSpec(("fsdp", "expert"), None)
    assert parameter_spec(("embed", "embed"), (8, 4096), POD.shape) == PartitionSpec(("expert",), ("fsdp",))
    assert parameter_spec(("expert", "embed"), (8, 4096), POD.shape) == PartitionSpec(("expert",), ("fsdp",))


def test_an_axis_without_a_rule_is_refused():
    with pytest.raises(ValueError, match="'embde' has no rule"):
        parameter_spec(("embde",), (4096,), POD.shape)


@pytest.mark.parametrize("mesh", [POD, LONG], ids=["data 2", "context 4"])
@pytest.mark.parametrize("exchange", ["all_gather", "all_to_all", "gather_weights", "gather_weights_fused"])
def test_dots_llm1_over_512_devices(mesh, exchange):
    """Every parameter has a spec, all but the norms are split over all devices but the copies along `data`, and the
    state of a device is its share of 12 bytes a parameter."""
    definition = ModelDef(dots_llm1(), ComputeConfig(expert_strategy=exchange), mesh, 0.006)
    optimizer = make_optimizer(OptimizerConfig(), definition.weight_decays())
    state, shards = abstract_state(definition, optimizer), 512 // mesh.shape["data"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        name = jax.tree_util.keystr(path)
        assert len(leaf.sharding.spec) == leaf.ndim, name
        parts = leaf.size // np.prod(leaf.sharding.shard_shape(leaf.shape))
        assert parts == shards or leaf.size <= 61 * 4096, f"{name} {leaf.shape} is split over {parts} devices only"
    experts = state.params["moe_blocks"]["moe"]["experts"]
    kept = [leaf.sharding.spec[1] for leaf in jax.tree.leaves(experts)]  # behind the layers: whose experts are whose
    assert all(("expert" in axes) == (not exchange.startswith("gather_weights") or mesh is LONG) for axes in kept)

    parameters, share = 142_774_373_888, 1 / shards
    assert parameters * 4 * share <= bytes_per_device(state.params) <= parameters * 4 * share * 1.002
    assert parameters * 12 * share <= bytes_per_device(state) <= parameters * 12 * share * 1.002


def test_moments_lie_where_their_parameters_lie():
    definition = ModelDef(tiny(), ComputeConfig(), make_mesh(MeshConfig(fsdp=2, expert=4)), 0.006)
    state = abstract_state(definition, make_optimizer(OptimizerConfig(), definition.weight_decays()))
    (adam,) = [s for s in state.opt_state if hasattr(s, "mu")]
    where = lambda tree: jax.tree.map(lambda leaf: leaf.sharding, tree)
    assert where(adam.mu) == where(adam.nu) == where(state.params)
    assert state.router_bias.sharding.is_fully_replicated


# Two axes of one dimension, and axes of two dimensions; kept: the shard of the mesh axis `expert`.
GATHERS = [
    ((2, 2, 2, 1), ("expert", "expert_embed"), ""),
    ((2, 2, 2, 1), ("expert", "expert_embed"), "expert"),
    ((1, 2, 2, 2), ("embed", "heads"), ""),
    ((1, 2, 2, 2), ("expert", "expert_embed"), "expert"),
]


@pytest.mark.parametrize("shape, logical, keep", GATHERS)
def test_gather_gives_the_whole_and_its_gradient_is_scattered_back(shape, logical, keep):
    mesh = make_mesh(MeshConfig(**dict(zip(AXES, shape))))
    w = jnp.arange(48.0).reshape(8, 6)
    rows = 4 if keep else 8
    spec = parameter_spec(logical, w.shape, mesh.shape) if not keep else PartitionSpec((keep,), ("fsdp",))
    x = jax.random.normal(jax.random.key(0), (8, rows))
    along = PartitionSpec(AXES)

    def local(w, x):
        complete = gather_parameter(w, spec, keep=keep)
        return jax.lax.psum(jnp.sum(jnp.square(x @ complete)), AXES)

    def over_mesh(w, x):
        return jax.shard_map(local, mesh=mesh, in_specs=(spec, along), out_specs=PartitionSpec())(w, x)

    def plain(w, x):
        if keep:  # device d stands at place d // context % 2 of the expert axis, and has those rows of w
            mine = [4 * (d // shape[3] % 2) for d in range(8)]
            return sum(jnp.sum(jnp.square(x[d] @ w[mine[d] : mine[d] + 4])) for d in range(8))
        return jnp.sum(jnp.square(x @ w))

    actual, expected = (jax.jit(jax.value_and_grad(f))(w, x) for f in (over_mesh, plain))
    assert_close(actual, expected, 1e-5)
    names = [e.primitive.name for e in equations(jax.make_jaxpr(jax.grad(over_mesh))(w, x))]
    gathered = [axis for axes in spec for axis in ((axes,) if isinstance(axes, str) else axes or ()) if axis != keep]
    assert sum("scatter" in name for name in names) == len(gathered)


def both_gathers(shape, spec, mesh: MeshConfig):
    """The complete parameter, gathered axis by axis and at once, its gradients, and the collectives of the latter."""
    mesh = make_mesh(mesh)
    w = jax.random.normal(jax.random.key(0), shape)
    weights = jax.random.normal(jax.random.key(1), (8, *shape))

    def scored(gather):
        def local(w, weights):
            return jax.lax.psum(jnp.sum(gather(w, spec) * weights), AXES)

        along = PartitionSpec(AXES)
        return jax.shard_map(local, mesh=mesh, in_specs=(spec, along), out_specs=PartitionSpec())

    by_axis, at_once = (jax.value_and_grad(scored(gather)) for gather in (gather_parameter, gather_parameter_fused))
    names = [e.primitive.name for e in equations(jax.make_jaxpr(at_once)(w, weights))]
    return jax.jit(by_axis)(w, weights), jax.jit(at_once)(w, weights), names


@pytest.mark.parametrize(
    "shape, spec",
    [
        ((8, 3), PartitionSpec(("fsdp", "expert"))),
        ((5, 8, 6), PartitionSpec(None, ("fsdp", "expert", "context"))),
        ((4, 6, 3), PartitionSpec("fsdp", "expert")),  # a row of the first each: experts of dots.llm1 on 128 x 2 chips
        ((2, 2, 6, 3), PartitionSpec("fsdp", "expert", "context")),
    ],
)
def test_one_gather_for_all_axes(shape, spec):
    mesh = MeshConfig(fsdp=2, expert=2, context=2) if "context" in str(spec) else MeshConfig(fsdp=4, expert=2)
    by_axis, at_once, names = both_gathers(shape, spec, mesh)
    assert_close(at_once, by_axis, 1e-6)
    assert sum("all_gather" in name for name in names) == sum("scatter" in name for name in names) == 1


@pytest.mark.parametrize(
    "shape, spec", [((8, 6, 3), PartitionSpec("fsdp", "expert")), ((4, 3, 6), PartitionSpec("fsdp", None, "expert"))]
)
def test_shards_that_lie_apart_are_gathered_axis_by_axis(shape, spec):
    by_axis, at_once, names = both_gathers(shape, spec, MeshConfig(fsdp=4, expert=2))
    assert_close(at_once, by_axis, 1e-6)
    assert sum("all_gather" in name for name in names) == 2


def test_a_parameter_that_is_not_split_needs_no_gather():
    by_axis, at_once, names = both_gathers((3, 2), PartitionSpec(), MeshConfig(fsdp=4, expert=2))
    assert_close(at_once, by_axis, 1e-6)
    assert not any("all_gather" in name for name in names)


@pytest.mark.parametrize("rows", [11, 22, 16, 1100])
def test_rows_that_fill_no_tile_are_gathered_too(rows):
    mesh = make_mesh(MeshConfig(fsdp=2, expert=4))
    spec, w = PartitionSpec(("fsdp", "expert")), jnp.arange(8.0 * rows * 3).reshape(8 * rows, 3)
    local = lambda w: gather_parameter(w, spec)[None]
    complete = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(spec,), out_specs=PartitionSpec(AXES)))(w)
    np.testing.assert_array_equal(complete, np.broadcast_to(w, (8, *w.shape)))


def test_pvary_marks_a_copy_and_sums_its_gradient():
    mesh = make_mesh(MeshConfig(fsdp=2, expert=2, context=2))
    along = PartitionSpec(AXES)

    def total(b, x):
        local = lambda b, x: jnp.sum(pvary(b) * x)[None]
        return jnp.sum(jax.shard_map(local, mesh=mesh, in_specs=(PartitionSpec(), along), out_specs=along)(b, x))

    x = jnp.arange(16.0)
    assert_close(jax.jit(jax.grad(total))(jnp.float32(3), x), x.sum(), 1e-6)


def test_axis_sizes_are_those_of_the_shard_map_around():
    mesh, seen = make_mesh(MeshConfig(fsdp=2, context=4)), []

    def local(x):
        seen.append(axis_sizes())
        return x

    jax.eval_shape(jax.shard_map(local, mesh=mesh, in_specs=TOKENS, out_specs=TOKENS), jnp.zeros((8, 8)))
    assert seen == [{"data": 1, "fsdp": 2, "expert": 1, "context": 4}] and axis_sizes() == {}


def test_batches_are_split_over_every_axis():
    mesh = make_mesh(MeshConfig(fsdp=2, expert=2, context=2))
    assert batch_sharding(mesh).shard_shape((16, 6)) == (4, 3)
    assert replicated(mesh).shard_shape((16, 6)) == (16, 6)
