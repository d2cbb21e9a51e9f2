"""What `python -m squeezetime_jax.doctor` runs: `squeezetime doctor`."""

import sys

from squeezetime_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))
