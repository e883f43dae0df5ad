"""`python -m dots_jax.generate` is `dots generate`."""

import sys

from dots_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
