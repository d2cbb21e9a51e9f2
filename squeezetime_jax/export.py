"""What `python -m squeezetime_jax.export` runs: `squeezetime export`."""

import sys

from squeezetime_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
