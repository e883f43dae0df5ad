"""Vocabularies, the chat form, and the training of a tokenizer."""
