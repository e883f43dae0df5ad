"""Memory and time of a configuration by arithmetic, in microseconds: enough to leave out what need not be compiled.

Errs towards too little memory, so that nothing good is left out. The shares and passes below are fitted to compiled modules
of dots.llm1 on v5p; what they are for is the order of the configurations.
"""

import dataclasses

from dots_jax.hlo.interconnect import Interconnect
from dots_jax.model.flops import count_parameters, flops_per_token
from dots_jax.planning.compile import GIB, Job

_EFFICIENCY = 0.85  # of matrix products and kernels, of the peak
_PASSES_OVER_TOKENS = 60  # a layer reads or writes its tokens so often, [T, D] at a time, forward and backward
_PASSES_OVER_ROWS = 14  # and the experts' rows
# The shares of collectives that stand exposed: weights can be fetched ahead, tokens have to wait for their exchange.
_EXPOSED_GATHERS, _EXPOSED_EXCHANGE = 0.15, 0.6
_F32, _BF16 = 4, 2


@dataclasses.dataclass(frozen=True)
class Rough:
    """gib: of one chip. seconds: of a step. mfu."""

    gib: float
    seconds: float
    mfu: float


def rough(job: Job, network: Interconnect) -> Rough:
    """What this job may take."""
    seconds = _seconds(job, network)
    flops = job.batch_size * job.stage.seq_len * flops_per_token(job.config.model, job.stage.seq_len)
    peak = job.devices * job.chip.flops / job.chip.devices
    return Rough(_bytes(job) * job.chip.devices / GIB, seconds, flops / peak / seconds)


def kept(job: Job) -> frozenset[str]:
    """The names of the results that the backward pass finds again, wherever they lie."""
    compute = job.config.compute
    return compute.saved | compute.offloaded


def _bytes(job: Job) -> float:
    c, mesh, tokens = job.config.model, job.config.mesh, job.device_tokens
    count = count_parameters(c)
    shards = mesh.fsdp * mesh.expert * mesh.context
    state = (1 if job.config.compute.offload_optimizer else 3) * _F32 * count.total / shards
    gradients = _F32 * count.total / shards if job.microbatches > 1 else _BF16 * count.total / shards
    widths = _widths(job)
    here = (job.config.compute.saved | {"layer_input"}) - job.config.compute.offloaded
    saved = c.num_layers * tokens * _BF16 * sum(widths[name] for name in here)
    rows = tokens * c.experts_per_token * _room(job)
    working = _BF16 * rows * (2 * c.hidden_size + 2 * c.expert_ffn_size)
    weights = 1.5 * _BF16 * _experts_here(job) * 3 * c.hidden_size * c.expert_ffn_size
    chunk = min(job.config.compute.loss_chunk_tokens or tokens, tokens)
    head = (_F32 + _BF16) * c.vocab_size * c.hidden_size + 1.5 * _F32 * chunk * c.vocab_size
    return state + gradients + saved + max(working + weights, head)


def _widths(job: Job) -> dict[str, float]:
    """Numbers a token and layer of what can be kept for the backward pass."""
    c = job.config.model
    return {
        "layer_input": c.hidden_size, "qkv": 3 * c.num_heads * c.head_dim, "attention": c.num_heads * c.head_dim,
        "attn_out": c.hidden_size, "routing": 3 * c.experts_per_token, "dense_ffn_hidden": 2 * c.shared_ffn_size,
        "expert_ffn_hidden": 2 * c.expert_ffn_size * c.experts_per_token * _room(job),
    }  # fmt: skip


def _room(job: Job) -> float:
    exchanged = job.config.mesh.expert > 1 and not job.config.compute.gathers_expert_weights
    return job.config.compute.expert_capacity_factor if exchanged else 1.0


def _experts_here(job: Job) -> float:
    """Experts whose weights a device holds while it works on a layer."""
    travels = job.config.compute.gathers_expert_weights
    return job.config.model.num_experts / (1 if travels else job.config.mesh.expert)


def _seconds(job: Job, network: Interconnect) -> float:
    c, chip, tokens = job.config.model, job.chip, job.device_tokens
    peak, hbm = _EFFICIENCY * chip.flops / chip.devices, chip.hbm / chip.devices
    forward = flops_per_token(c, job.stage.seq_len) / 3
    again = forward - sum(flops for name, flops in _flops(job).items() if name in kept(job))
    compute = tokens * (3 * forward + (0 if job.config.compute.remat == "none" else max(again, 0))) / peak
    rows = tokens * c.experts_per_token * _room(job)
    passes = _PASSES_OVER_TOKENS * tokens + _PASSES_OVER_ROWS * rows
    compute += c.num_layers * passes * c.hidden_size * _BF16 / hbm
    compute += 5 * _F32 * count_parameters(c).total / job.devices / hbm / job.microbatches  # the optimizer
    gathers, exchange = _gathers(job, network), _exchange(job, network)
    widths = _widths(job)
    host = sum(widths[name] for name in job.config.compute.offloaded)
    host *= 2 * c.num_layers * tokens * _BF16 * chip.devices / chip.pcie
    return job.microbatches * max(
        compute + _EXPOSED_GATHERS * gathers + _EXPOSED_EXCHANGE * exchange, gathers + exchange, host
    )


def _flops(job: Job) -> dict[str, float]:
    """Forward FLOPs of a token, over all layers, that keeping a result saves."""
    c = job.config.model
    width = c.num_heads * c.head_dim
    per_layer = {
        "qkv": 2 * c.hidden_size * 3 * width, "attention": 2 * job.stage.seq_len * width,
        "attn_out": 2 * c.hidden_size * width, "dense_ffn_hidden": 4 * c.hidden_size * c.shared_ffn_size,
        "expert_ffn_hidden": 4 * c.hidden_size * c.expert_ffn_size * c.experts_per_token,
    }  # fmt: skip
    return {name: c.num_layers * flops for name, flops in per_layer.items()}


def group_along(network: Interconnect, axes: tuple[str, ...]) -> tuple[int, ...]:
    """The first device and those that differ from it along these mesh axes."""
    sizes = dict(network.axes)
    strides, stride = {}, 1
    for name, size in reversed(network.axes):
        strides[name], stride = stride, stride * size
    group = [0]
    for name in axes:
        group = [device + i * strides[name] for device in group for i in range(sizes[name])]
    return tuple(sorted(group))


def _bandwidth(job: Job, network: Interconnect, axes: tuple[str, ...]) -> tuple[int, float]:
    """Size of a group along these mesh axes, and the bandwidth of its links."""
    group = group_along(network, axes)
    links = network.links(group) if len(group) > 1 else {}
    within = sum(bandwidth for name, bandwidth in links.items() if name != "core")
    return len(group), within or max(links.values(), default=1.0)


def _gathers(job: Job, network: Interconnect) -> float:
    """Seconds of a microbatch in which weights are gathered twice and gradients scattered once."""
    c = job.config.model
    count = count_parameters(c)
    experts = count.parts["routed experts"]
    travels = job.config.compute.gathers_expert_weights
    over = ("fsdp", "context") if not travels else ("fsdp", "expert", "context")
    size, bandwidth = _bandwidth(job, network, tuple(a for a in over if a in dict(network.axes)))
    share = experts * _experts_here(job) / c.num_experts
    total = 3 * _BF16 * share * (size - 1) / size / bandwidth
    size, bandwidth = _bandwidth(
        job, network, tuple(a for a in ("fsdp", "expert", "context") if a in dict(network.axes))
    )
    return total + 3 * _BF16 * (count.total - experts) * (size - 1) / size / bandwidth


def _exchange(job: Job, network: Interconnect) -> float:
    """Seconds of a microbatch in which tokens travel to their experts and back, forward, again and backward."""
    c, compute = job.config.model, job.config.compute
    size, bandwidth = _bandwidth(job, network, ("expert",))
    if size == 1 or compute.gathers_expert_weights:
        return 0.0
    token = c.hidden_size * _BF16
    if compute.expert_strategy == "all_gather":
        one_way = job.device_tokens * token * (size - 1) / bandwidth
    else:
        one_way = job.device_tokens * c.experts_per_token * token * size / (4 * bandwidth)
    return c.num_moe_layers * 5 * one_way
