"""Where records come from: files, TFDS, the Python library; and the seqio tasks over them."""
