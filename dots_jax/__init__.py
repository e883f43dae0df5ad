"""dots.llm1 in JAX: train, evaluate and use a mixture-of-experts language model."""
