"""What `python -m squeezetime_jax.bench` runs: `squeezetime bench`."""

import sys

from squeezetime_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
