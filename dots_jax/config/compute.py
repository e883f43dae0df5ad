"""How the model is computed."""

import dataclasses

from dots_jax.config.checks import check_types, require, require_not_negative, require_one_of
from dots_jax.config.renamed import require_new_value

# Results of a layer that remat can save, by the names that checkpoint_name gives them.
SAVEABLE = ("qkv", "attention", "attn_out", "routing", "dense_ffn_hidden", "expert_ffn_hidden")
LAYER_INPUT = "layer_input"
REMAT_POLICIES = {"none": (LAYER_INPUT, *SAVEABLE), "matmuls": SAVEABLE, "full": ()}
EXPERT_STRATEGIES = ("all_gather", "all_to_all", "gather_weights", "gather_weights_fused")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How the model is computed: speed, memory and rounding, never the architecture. The defaults are our choice.

    `remat` selects which activations are saved on the device for the backward pass. `none` saves all, `full` only each
    layer's input, `matmuls` the results of matmuls; a tuple of SAVEABLE names saves those. On a CPU `matmuls` is fastest.

    `expert_strategy` is how tokens and experts come together over the `expert` mesh axis. `all_gather` sends all tokens
    to all devices of the axis: cheaper up to about `experts_per_token` devices. `all_to_all` sends each copy of a token to
    its expert's device. `gather_weights` sends the experts' weights to the tokens; the axis then only shards them.
    `gather_weights_fused` does that in one collective over all mesh axes, for a 2D torus (v5e, v6e) on which a device
    holds one expert or a part of one: fsdp 128 for dots.llm1.
    """

    dtype: str = "bfloat16"  # of activations and matmul weights; parameters, router, norms, softmax, loss: float32
    remat: str | tuple[str, ...] = "full"  # activations saved on the device: a policy, or names of SAVEABLE
    expert_strategy: str = "all_gather"  # one of EXPERT_STRATEGIES
    expert_capacity_factor: float = 1.25  # rows of one expert round / balanced load; more rows: more rounds, no drops
    loss_chunk_tokens: int = 1024  # tokens of one device whose logits exist at the same time; 0: all
    offload_optimizer: bool = (
        False  # Adam's moments wait in host memory: 8 bytes a parameter less, two transfers a step
    )
    offload_activations: tuple[str, ...] = ()  # `layer_input` or SAVEABLE names that wait in host memory

    def __post_init__(self):
        require_new_value(self, "remat", "expert_strategy", "offload_activations")
        check_types(self)
        require_one_of(self, "dtype", ("bfloat16", "float32"))
        require_one_of(self, "expert_strategy", EXPERT_STRATEGIES)
        results = ", ".join(SAVEABLE)
        require(
            self.remat in REMAT_POLICIES if isinstance(self.remat, str) else {*self.remat} <= {*SAVEABLE},
            f"ComputeConfig.remat must be 'none', 'full', 'matmuls', or a tuple of names from {results}, but is {self.remat!r}.",
        )
        require(
            self.offloaded <= {LAYER_INPUT, *SAVEABLE},
            f"ComputeConfig.offload_activations must be a tuple of names from {LAYER_INPUT}, {results}, but is "
            f"{self.offload_activations!r}.",
        )
        twice = " and ".join(sorted(self.saved & self.offloaded))
        sentence = f"ComputeConfig.remat = {self.remat!r} saves {twice} on the device:"
        require(not twice, f"{sentence} name in ComputeConfig.offload_activations only what it does not save.")
        require(
            self.expert_capacity_factor >= 1,
            f"ComputeConfig.expert_capacity_factor must be at least 1, but is {self.expert_capacity_factor}.",
        )
        require_not_negative(self, "loss_chunk_tokens")

    @property
    def saved(self) -> frozenset[str]:
        """Names of activations that the backward pass finds on the device."""
        return frozenset(REMAT_POLICIES[self.remat] if isinstance(self.remat, str) else self.remat)

    @property
    def offloaded(self) -> frozenset[str]:
        """Names of activations that it finds in host memory."""
        return frozenset(self.offload_activations)

    @property
    def gathers_expert_weights(self) -> bool:
        """Weights move to the tokens, and no token leaves its device."""
        return self.expert_strategy.startswith("gather_weights")
