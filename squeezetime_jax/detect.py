"""What `python -m squeezetime_jax.detect` runs: `squeezetime detect`."""

import sys

from squeezetime_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["detect", *sys.argv[1:]]))
