"""What `python -m squeezetime_jax.predict` runs: `squeezetime predict`."""

import sys

if __name__ == "__main__":
    from squeezetime_jax.cli import main

    sys.exit(main(["predict", *sys.argv[1:]]))
elif __name__ == "squeezetime_jax.predict":
    from squeezetime_jax.evaluation.predict import predict

    # Whoever imports this module by its name (a documentation tool, a test runner) binds that name
    # in the package; it is to stay the function that `squeezetime_jax.predict` is.
    sys.modules[__name__] = predict  # type: ignore[assignment]
