"""How good a model is, measured from outside."""
