"""SqueezeTime, a video-recognition network for phones, in JAX and Flax NNX.

Each name is imported on first use, so that processes which only decode videos do not load JAX.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from squeezetime_jax.checkpoint.convert import from_state_dict as from_state_dict
    from squeezetime_jax.checkpoint.store import load as load
    from squeezetime_jax.evaluation.predict import predict as predict
    from squeezetime_jax.evaluation.stream import Stream as Stream
    from squeezetime_jax.model.config import SqueezeTimeConfig as SqueezeTimeConfig
    from squeezetime_jax.model.squeezetime import SqueezeTime as SqueezeTime
    from squeezetime_jax.peers.registry import create as create
    from squeezetime_jax.training.runner import train as train

__version__ = "0.1.0"

_MODULES = {
    "SqueezeTime": "squeezetime_jax.model.squeezetime",
    "SqueezeTimeConfig": "squeezetime_jax.model.config",
    "Stream": "squeezetime_jax.evaluation.stream",
    "create": "squeezetime_jax.peers.registry",
    "from_state_dict": "squeezetime_jax.checkpoint.convert",
    "load": "squeezetime_jax.checkpoint.store",
    "predict": "squeezetime_jax.evaluation.predict",
    "train": "squeezetime_jax.training.runner",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
