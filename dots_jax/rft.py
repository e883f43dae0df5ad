"""`python -m dots_jax.rft` is `dots rft`."""

import sys

from dots_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["rft", *sys.argv[1:]]))
