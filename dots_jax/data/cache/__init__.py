"""Token caches: planned, built on Beam, opened as one stream of tokens."""
