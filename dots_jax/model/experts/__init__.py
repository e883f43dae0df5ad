"""Expert parallelism: one file per strategy, and `strategy.py`, which chooses one of them."""
