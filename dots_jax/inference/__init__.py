"""The trained model at work: prompts in, text out; and the probability of a text."""
