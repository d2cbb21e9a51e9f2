"""What `python -m squeezetime_jax.convert` runs: `squeezetime convert`."""

import sys

from squeezetime_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
