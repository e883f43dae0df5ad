"""Settings and values that had another name until 0.1: what each is called now."""

from dots_jax.config.checks import require

# Class.setting -> the setting's name now.
SETTINGS = {
    "ComputeConfig.exchange": "expert_strategy",
    "ComputeConfig.expert_buffer": "expert_capacity_factor",
    "ComputeConfig.moments_on_host": "offload_optimizer",
    "ComputeConfig.kept_on_host": "offload_activations",
    "BalanceConfig.bias_rate": "expert_bias_update_rate",
    "BalanceConfig.sequence_loss": "sequence_aux_loss_coef",
}
_STRATEGIES = {"weights": "gather_weights", "weights_at_once": "gather_weights_fused"}
_ACTIVATIONS = {
    "inputs": "layer_input",
    "attended": "attn_out",
    "shared_hidden": "dense_ffn_hidden",
    "hidden": "expert_ffn_hidden",
}
_UNCHANGED = ("qkv", "attention", "routing")  # alone they were strings, and are tuples now


def new_value(setting: str, value):
    """The value as it is written now, under the setting's present name; one that was never another comes back as it is."""
    if setting == "expert_strategy":
        return _STRATEGIES.get(value, value) if isinstance(value, str) else value
    if setting not in ("remat", "offload_activations"):
        return value
    if isinstance(value, (list, tuple)):
        names = [*value]
    elif value == "" and setting == "offload_activations":
        names = []
    elif isinstance(value, str) and ("+" in value or value in _ACTIVATIONS or value in _UNCHANGED):
        names = value.split("+")
    else:
        return value
    return tuple(_ACTIVATIONS.get(name, name) if isinstance(name, str) else name for name in names)


def require_new_value(config, *names: str) -> None:
    """Refuses a value of an older version, with the one that took its place."""
    for name in names:
        value = getattr(config, name)
        new = new_value(name, value)
        same = new == value or (isinstance(value, list) and new == tuple(value))
        require(same, f"{type(config).__name__}.{name} = {value!r} is now written {new!r}.")
