"""The model in other people's formats: names, layouts and configs of Hugging Face checkpoints."""
