"""How programs are compiled: kept from one command to the next, and fast on a CPU."""

import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path

import jax

from squeezetime_jax.machine import available_cpus

# jaxlib 0.10 hands single convolutions to a library that runs those with few output channels on one
# thread. Left to XLA itself, a clip takes two thirds of the time on two cores. Other versions may
# not know the option, and refuse what they do not know.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
_KNOWN_TO = "0.10."


def use_compilation_cache(folder: str = "") -> None:
    """Keep compiled programs from one command to the next.

    Args:
      folder: where; empty: the folder that `JAX_COMPILATION_CACHE_DIR` names, or else
        `squeezetime_jax/xla` in the user's cache folder.
    """
    folder = folder or os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(cache_folder())
    jax.config.update("jax_compilation_cache_dir", folder)
    # The network is one program of seconds and a handful of small ones: all are worth keeping.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def cache_folder() -> Path:
    """Where programs are kept when nothing else is said."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "squeezetime_jax" / "xla"


def inference_options(platform: str | None = None) -> Mapping[str, str]:
    """`compiler_options` of `jax.jit` for the network in evaluation mode.

    Args:
      platform: "cpu", "gpu" or "tpu"; None: that of the default devices.
    """
    several_threads = available_cpus() > 1
    if (
        (platform or jax.default_backend()) == "cpu"
        and several_threads
        and importlib.metadata.version("jaxlib").startswith(_KNOWN_TO)
    ):
        return _CPU_OPTIONS
    return {}
