"""`python -m dots_jax.train_tokenizer` is `dots tokenizer`."""

import sys

from dots_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["tokenizer", *sys.argv[1:]]))
