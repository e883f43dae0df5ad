"""Programs that run inside the sandbox. They are sent as text, use the standard library alone, and import nothing of dots_jax."""
