import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from squeezetime_jax import SqueezeTime
from squeezetime_jax.data.augment import normalise
from squeezetime_jax.data.transforms import HMDB51_TEST, KINETICS_TEST, VALIDATION
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation import views
from squeezetime_jax.evaluation.views import (
    Sampling,
    Scorer,
    parse_views,
    reorder,
    sampling_of,
)


def random_views(n: int, num_views: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, num_views, 4, 32, 32, 3), np.uint8)


def test_the_published_protocols_are_found() -> None:
    assert Sampling().protocol("10x3", 16) == KINETICS_TEST
    assert Sampling().protocol("1x1", 16) == VALIDATION
    assert sampling_of("released.pth", num_classes=51).protocol("2x3", 16) == HMDB51_TEST
    assert sampling_of("released.pth", num_classes=600).protocol("10x3", 16) == KINETICS_TEST


@pytest.mark.parametrize("step", ["", "checkpoints", "checkpoints/10"])
def test_a_runs_checkpoint_is_seen_as_it_was_tested(tmp_path: Path, step: str) -> None:
    evaluation = {"num_clips": 1, "num_crops": 1, "short_side": 72, "crop_size": 64}
    fields = {"evaluation": evaluation, "data": {"frame_interval": 0}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    folder = tmp_path / step
    folder.mkdir(parents=True, exist_ok=True)
    found = sampling_of(folder, num_classes=8)
    assert found == Sampling(one_crop_side=72, crop_size=64, frame_interval=None)
    assert found.protocol("2x3", 4).short_side == 64


def test_a_damaged_run_says_which_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config\.json: damaged"):
        sampling_of(tmp_path, num_classes=8)


@pytest.mark.parametrize("text", ["3", "0x1", "10x2", "ten x3", "1x1x1", "-1x3", "999x3"])
def test_views_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="wanted CLIPSxCROPS"):
        parse_views(text)


def test_scores_are_the_mean_of_the_softmax_not_the_softmax_of_the_mean(model: SqueezeTime) -> None:
    clips = random_views(1, 6)
    forward = jax.jit(lambda c: model(normalise(c)))
    logits = forward(jnp.asarray(clips[0]))
    wanted = jax.nn.softmax(logits).mean(axis=0)
    other = jax.nn.softmax(logits.mean(axis=0))
    found = Scorer(model).scores(clips)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert float(jnp.abs(found - other).max()) > 1e-3


def test_views_may_come_in_any_number_of_calls(
    model: SqueezeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = random_views(1, 6)
    six_calls = Scorer(model).scores(clips)
    monkeypatch.setitem(views._CLIPS_AT_ONCE, "cpu", 2)
    np.testing.assert_allclose(Scorer(model).scores(clips), six_calls, atol=1e-6)


def test_features_are_what_the_head_sees(model: SqueezeTime) -> None:
    clips = random_views(1, 1)
    features = Scorer(model).features(clips)
    assert features.shape == (1, model.config.feature_channels)
    scores = jax.nn.softmax(model.head.classifier(features))
    np.testing.assert_allclose(Scorer(model).scores(clips), scores, atol=1e-5)


def test_frames_can_be_shown_in_another_order(model: SqueezeTime) -> None:
    clips = random_views(3, 2)
    orders = jnp.array([[3, 2, 1, 0], [1, 0, 3, 2]])
    turned = reorder(jnp.asarray(clips), jnp.array([4, 7, 10]), orders)
    np.testing.assert_array_equal(turned[0], clips[0][:, ::-1])
    np.testing.assert_array_equal(turned[1], clips[1][:, [1, 0, 3, 2]])
    np.testing.assert_array_equal(turned[2], clips[2][:, ::-1])
    scores = Scorer(model).scores(clips)
    assert float(jnp.abs(Scorer(model).scores(turned) - scores).max()) > 1e-3
