"""Where parameters land: the rule table, its errors, dots.llm1 on 512 devices, and gathers inside shard_map."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec
from numerics import assert_close, equations

from dots_jax.config import ComputeConfig, MeshConfig, OptimizerConfig, UserError, dots_llm1, tiny
from dots_jax.parallel import mesh as meshes
from dots_jax.parallel.mesh import BATCH_AXES, gather_parameter, make_mesh, parameter_spec, vary
from dots_jax.training.optimizer import make_optimizer
from dots_jax.training.state import Definition, abstract_state, bytes_per_device

POD = AbstractMesh((2, 32, 8), BATCH_AXES)


def test_mesh_takes_the_devices_that_are_left():
    mesh = make_mesh(MeshConfig(data=2, fsdp=-1, expert=2).resolve(jax.device_count()))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "expert": 2}
    assert list(mesh.devices.flat) == jax.devices()
    assert make_mesh(MeshConfig(data=1, fsdp=1, expert=1)).size == 1
    with pytest.raises(UserError, match="needs 16 devices, but there are 8"):
        MeshConfig(data=16).resolve(8)


class _Tpu(SimpleNamespace):
    platform = "tpu"


@pytest.mark.parametrize("shape, axis", [((2, 2, 2), 0), ((4, 2, 1), 0), ((1, 4, 2), 1), ((3, 2, 2), 1)])
def test_slices_lie_along_data_or_fsdp(monkeypatch, shape, axis):
    """jax.make_mesh knows the wires of one slice; two slices meet on one axis only."""

    def one_slice(shape, names, *, devices, axis_types):
        assert len({device.slice_index for device in devices}) == 1
        return SimpleNamespace(devices=np.array(devices, object).reshape(shape))

    monkeypatch.setattr(jax, "make_mesh", one_slice)
    half = int(np.prod(shape)) // 2
    devices = [_Tpu(slice_index=index, number=number) for number in range(half) for index in (1, 0)]
    placed = meshes._over_slices(shape, devices)
    assert placed.shape == shape
    for number, part in enumerate(np.split(placed, 2, axis=axis)):
        assert {device.slice_index for device in part.flat} == {number}
        assert sorted(device.number for device in part.flat) == list(range(half))
    with pytest.raises(UserError, match="There are 2 slices, but MeshConfig.data = 1 and MeshConfig.fsdp = 3"):
        meshes._over_slices((1, 3, 2), devices)


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


@pytest.mark.parametrize(
    "logical, shape, expected",
    [
        (("vocab", "embed"), (152_064, 4096), (None, ("fsdp", "expert"))),
        (("embed", "heads", "head_dim"), (4096, 32, 128), (("fsdp", "expert"), None, None)),
        (("expert", "expert_embed", "expert_ffn"), (128, 4096, 2816), ("expert", "fsdp", None)),
        (("expert", "expert_embed", "expert_ffn"), (61, 128, 4096, 2816), (None, "expert", "fsdp", None)),  # stacked
        (("embed", "router"), (4096, 128), (("fsdp", "expert"), None)),
        (("embed",), (100,), (None,)),  # 256 does not divide 100: whole
        (("head_dim",), (128,), (None,)),
    ],
)
def test_the_rule_table(logical, shape, expected):
    spec = parameter_spec(logical, shape, POD)
    assert spec == PartitionSpec(*expected)


def test_two_axes_that_claim_one_mesh_axis_are_refused():
    with pytest.raises(
        ValueError, match=re.escape("('expert', 'embed') of one parameter claim the same mesh axis twice")
    ):
        parameter_spec(("expert", "embed"), (128, 4096), POD)


def test_an_axis_without_a_rule_is_refused():
    with pytest.raises(ValueError, match="'embde' has no rule"):
        parameter_spec(("embde",), (4096,), POD)


def test_dots_llm1_over_512_devices():
    """Every parameter has a spec, all but the smallest are split over all of fsdp x expert, and the state of a device is
    its share of 12 bytes a parameter."""
    definition = Definition(dots_llm1(), ComputeConfig(), POD, 0.006)
    state = abstract_state(definition, make_optimizer(OptimizerConfig()))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        name = jax.tree_util.keystr(path)
        assert len(leaf.sharding.spec) == leaf.ndim, name
        copies = leaf.size // np.prod(leaf.sharding.shard_shape(leaf.shape))
        assert copies == 256 or leaf.size <= 61 * 128, f"{name} {leaf.shape} is split over {copies} devices only"
    experts = state.params["moe_blocks"]["moe"]["experts"]
    assert all("expert" in leaf.sharding.spec for leaf in jax.tree.leaves(experts))

    parameters, share = 142_774_373_888, 1 / 256
    assert parameters * 4 * share <= bytes_per_device(state.params) <= parameters * 4 * share * 1.001
    assert parameters * 12 * share <= bytes_per_device(state) <= parameters * 12 * share * 1.001


def test_moments_lie_where_their_parameters_lie():
    definition = Definition(tiny(), ComputeConfig(), make_mesh(MeshConfig(fsdp=2, expert=4)), 0.006)
    state = abstract_state(definition, make_optimizer(OptimizerConfig()))
    (adam,) = [s for s in state.opt_state if hasattr(s, "mu")]
    where = lambda tree: jax.tree.map(lambda leaf: leaf.sharding, tree)
    assert where(adam.mu) == where(adam.nu) == where(state.params)
    assert state.router_bias.sharding.is_fully_replicated


@pytest.mark.parametrize("keep", ["", "expert"])
def test_gather_gives_the_whole_and_its_gradient_is_one_reduce_scatter(keep):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, expert=2))
    spec = parameter_spec(("expert", "expert_embed"), (4, 6), mesh)
    w = jnp.arange(24.0).reshape(4, 6)
    x = jax.random.normal(jax.random.key(0), (8, 4 if keep == "" else 2))

    def local(w, x):
        whole = gather_parameter(w, spec, keep=keep)
        return jax.lax.psum(jnp.sum(jnp.square(x @ whole)), BATCH_AXES)

    def over_mesh(w, x):
        batch = PartitionSpec(BATCH_AXES)
        return jax.shard_map(local, mesh=mesh, in_specs=(spec, batch), out_specs=PartitionSpec())(w, x)

    def plain(w, x):
        if keep:  # device d has rows 2 (d % 2) and 2 (d % 2) + 1 of w
            return sum(jnp.sum(jnp.square(x[d] @ w[2 * (d % 2) : 2 * (d % 2) + 2])) for d in range(8))
        return jnp.sum(jnp.square(x @ w))

    actual, expected = (jax.jit(jax.value_and_grad(f))(w, x) for f in (over_mesh, plain))
    assert_close(actual, expected, 1e-5)
    names = [e.primitive.name for e in equations(jax.make_jaxpr(jax.grad(over_mesh))(w, x))]
    assert any("scatter" in name for name in names)


def test_vary_marks_a_copy_and_sums_its_gradient():
    mesh = make_mesh(MeshConfig(fsdp=4, expert=2))
    batch = PartitionSpec(BATCH_AXES)

    def total(b, x):
        local = lambda b, x: jnp.sum(vary(b) * x)[None]
        return jnp.sum(jax.shard_map(local, mesh=mesh, in_specs=(PartitionSpec(), batch), out_specs=batch)(b, x))

    x = jnp.arange(16.0)
    assert_close(jax.jit(jax.grad(total))(jnp.float32(3), x), x.sum(), 1e-6)


def test_batches_are_split_over_every_axis():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, expert=2))
    assert meshes.batch_sharding(mesh).shard_shape((16, 5)) == (2, 5)
    assert meshes.replicated(mesh).shard_shape((16, 5)) == (16, 5)
