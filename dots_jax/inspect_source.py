"""`python -m dots_jax.inspect_source` is `dots inspect_source`."""

import sys

from dots_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["inspect_source", *sys.argv[1:]]))
