"""Small videos and a small network."""

from pathlib import Path

import jax.numpy as jnp
import pytest
from flax import nnx

from squeezetime_jax import SqueezeTime, SqueezeTimeConfig
from squeezetime_jax.data.embedded import motion
from squeezetime_jax.evaluation import views


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The motion data set: a training video, 11 test videos, 12 frames of 32 pixels."""
    folder = tmp_path_factory.mktemp("motion") / "videos"
    return motion.write_motion_dataset(folder, num_train=1, num_test=11, size=32, num_frames=12)


@pytest.fixture(scope="session")
def model() -> SqueezeTime:
    """A network whose scores differ from video to video."""
    model = SqueezeTime(SqueezeTimeConfig.tiny(branches="tfc"), nnx.Rngs(0))
    # The classifier's initial weights are so small that all classes have about the same score.
    kernel = model.head.classifier.kernel
    kernel.set_value(100 * kernel[...])
    model.eval()
    return model


@pytest.fixture
def constant_model() -> SqueezeTime:
    """Gives every video the same scores: class 2 before 5, then all others."""
    model = SqueezeTime(SqueezeTimeConfig.tiny(branches="tfc"), nnx.Rngs(0))
    classifier = model.head.classifier
    classifier.kernel.set_value(jnp.zeros_like(classifier.kernel[...]))
    classifier.bias.set_value(jnp.zeros(8).at[2].set(2.0).at[5].set(1.0))
    model.eval()
    return model


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network takes one clip a call, so that all tests share its program."""
    monkeypatch.setitem(views._CLIPS_AT_ONCE, "cpu", 1)
