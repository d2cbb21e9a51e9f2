"""The former place of `Run`, for tasks that are not converted yet."""

from squeezetime_jax.training.experiment import Run

__all__ = ["Run"]
