"""SqueezeTime, a video-recognition network for phones, in JAX and Flax NNX.

Each name is imported on first use, so that what decodes videos need not load JAX.
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

__version__ = "0.1.0"

_HOME = {
    "SqueezeTime": "squeezetime_jax.model.squeezetime",
    "SqueezeTimeConfig": "squeezetime_jax.model.config",
    "Stream": "squeezetime_jax.evaluation.stream",
    "create": "squeezetime_jax.peers.registry",
    "from_state_dict": "squeezetime_jax.checkpoint.convert",
    "load": "squeezetime_jax.checkpoint.store",
    "predict": "squeezetime_jax.evaluation.predict",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
