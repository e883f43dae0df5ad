"""`python -m dots_jax.expert_load` is `dots expert_load`."""

import sys

from dots_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["expert_load", *sys.argv[1:]]))
