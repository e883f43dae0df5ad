"""`python -m dots_jax.train_classifier` is `dots classifier`."""

import sys

from dots_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["classifier", *sys.argv[1:]]))
