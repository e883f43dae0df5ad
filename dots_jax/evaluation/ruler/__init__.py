"""RULER's 13 tasks (NVIDIA/RULER, arXiv 2404.06654), made for a length in tokens of the model's own tokenizer."""
