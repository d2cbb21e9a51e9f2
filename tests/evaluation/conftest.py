"""Small videos and a small network, as files."""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from small import INPUT

from squeezetime_jax import SqueezeTime, SqueezeTimeConfig
from squeezetime_jax.checkpoint.convert import to_torch_file
from squeezetime_jax.data.embedded import motion
from squeezetime_jax.evaluation import views as protocol_views


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The motion data set: a training video, 11 test videos, 12 frames of 32 pixels."""
    folder = tmp_path_factory.mktemp("motion") / "videos"
    return motion.write_motion_dataset(folder, num_train=1, num_test=11, size=32, num_frames=12)


@pytest.fixture(scope="session")
def model() -> SqueezeTime:
    model = SqueezeTime(SqueezeTimeConfig.tiny(), nnx.Rngs(0))
    # The classifier's own weights are so small that every class would score the same.
    kernel = model.head.classifier.kernel
    kernel.set_value(100 * kernel[...])
    model.eval()
    model.input = INPUT  # type: ignore[attr-defined]
    return model


@pytest.fixture(scope="session")
def checkpoint(model: SqueezeTime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    to_torch_file(path, model, labels=list(motion.CLASSES))
    return path


@pytest.fixture
def constant_model() -> SqueezeTime:
    """Scores every video the same: class 2 before 5, then all others."""
    model = SqueezeTime(SqueezeTimeConfig.tiny(), nnx.Rngs(0))
    classifier = model.head.classifier
    classifier.kernel.set_value(jnp.zeros_like(classifier.kernel[...]))
    classifier.bias.set_value(jnp.zeros(8).at[2].set(2.0).at[5].set(1.0))
    model.eval()
    return model


@pytest.fixture(autouse=True)
def few_programs(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Programs are kept in a folder of the tests', and are few: the network takes a clip a call."""
    monkeypatch.setitem(protocol_views._CLIPS_AT_ONCE, "cpu", 1)
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    before = jax.config.jax_compilation_cache_dir
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
