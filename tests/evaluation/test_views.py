import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import INPUT, SAMPLING

from squeezetime_jax import SqueezeTime, SqueezeTimeConfig, create, load
from squeezetime_jax.checkpoint.convert import to_torch_file
from squeezetime_jax.checkpoint.input import find_input, input_of
from squeezetime_jax.checkpoint.store import save_model
from squeezetime_jax.data.augment import normalise
from squeezetime_jax.data.transforms import HMDB51_TEST, KINETICS_TEST, VALIDATION, ViewProtocol
from squeezetime_jax.errors import UserError
from squeezetime_jax.evaluation import explain, views
from squeezetime_jax.evaluation.views import Sampling, Scorer, parse_views, published_views, reorder
from squeezetime_jax.peers.registry import entry_of

SMALL = dataclasses.asdict(SqueezeTimeConfig.tiny())
del SMALL["name"]


def random_views(n: int, num_views: int, t: int = 4) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, num_views, t, 32, 32, 3), np.uint8)


def test_the_published_protocols_are_found(tmp_path: Path) -> None:
    kinetics = Sampling.of_input(input_of(SqueezeTimeConfig()))
    assert kinetics == Sampling(fps=30.0)  # predictions are in time, evaluations are not
    kinetics = dataclasses.replace(kinetics, fps=None)
    assert kinetics.protocol("10x3", 16) == KINETICS_TEST
    assert kinetics.protocol("1x1", 16) == VALIDATION
    hmdb51 = Sampling.of_input(find_input(tmp_path / "a.pth", SqueezeTimeConfig(num_classes=51)))
    assert hmdb51.protocol("2x3", 16) == dataclasses.replace(HMDB51_TEST, target_fps=30.0)
    segments = Sampling.of_input(entry_of("tsm_r18").input).protocol("1x1", 8)
    assert segments == ViewProtocol(1, 1, 256, 224, num_frames=8, frame_interval=None)
    assert Sampling.of_input(entry_of("i3d_r18").input).protocol("10x3", 32).crop_size == 256
    tsn = entry_of("tsn_r34")
    found = Sampling.of_input(tsn.input).protocol(published_views(tsn.config), 3)
    assert found == ViewProtocol(1, 10, 256, 224, num_frames=25, frame_interval=None)
    assert published_views(SqueezeTimeConfig(num_classes=51)) == "10x3"


@pytest.mark.parametrize("step", ["", "checkpoints", "checkpoints/10"])
def test_a_runs_checkpoint_expects_what_the_run_tested_with(tmp_path: Path, step: str) -> None:
    evaluation = {"num_clips": 1, "num_crops": 1, "short_side": 72, "crop_size": 64}
    fields = {"evaluation": evaluation, "data": {"frame_interval": 0}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    folder = tmp_path / step
    folder.mkdir(parents=True, exist_ok=True)
    found = Sampling.of_input(find_input(folder, SqueezeTimeConfig.tiny()))
    assert found == Sampling(one_crop_side=72, crop_size=64, frame_interval=None)
    assert found.protocol("2x3", 4).short_side == 64


def test_a_damaged_run_says_which_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config\.json: damaged"):
        find_input(tmp_path, SqueezeTimeConfig.tiny())
    # Beside a file of weights it may belong to something else.
    assert find_input(tmp_path / "a.pth", SqueezeTimeConfig.tiny()).frame_interval == 4


@pytest.mark.parametrize("name", ["tiny.pth", "checkpoint"])
def test_what_a_network_expects_is_written_and_read(name: str, tmp_path: Path) -> None:
    model = create("squeezetime", **SMALL)
    assert input_of(model) == entry_of("squeezetime").input
    model.input = dataclasses.replace(INPUT, sampling="segments", std=(1.0, 2.0, 3.0))
    write = to_torch_file if name.endswith(".pth") else save_model
    write(tmp_path / name, model)
    assert input_of(load(tmp_path / name)) == model.input
    assert input_of(load(tmp_path / name, num_classes=3)) == model.input


@pytest.mark.parametrize("text", ["3", "0x1", "10x2", "ten x3", "1x1x1", "-1x3", "999x3"])
def test_invalid_views_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected CLIPSxCROPS"):
        parse_views(text)


def test_scores_are_the_mean_of_the_softmax_not_the_softmax_of_the_mean(model: SqueezeTime) -> None:
    clips = random_views(1, 6)
    forward = jax.jit(lambda c: model(normalise(c)))
    logits = forward(jnp.asarray(clips[0]))
    expected = jax.nn.softmax(logits).mean(axis=0)
    other = jax.nn.softmax(logits.mean(axis=0))
    found = Scorer(model).scores(clips)[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert float(jnp.abs(found - other).max()) > 1e-3


@pytest.mark.parametrize("name", ["tsm_r18", "i3d_r18"])
def test_any_network_of_the_register_is_scored(name: str) -> None:
    model = create(name, depth=10, width=8, num_frames=8, num_classes=5)
    model.input = dataclasses.replace(INPUT, mean=(10.0, 20.0, 30.0), std=(40.0, 50.0, 60.0))
    clips = random_views(2, 1, t=8)
    pixels = (jnp.asarray(clips[:, 0], float) - jnp.array([10, 20, 30])) / jnp.array([40, 50, 60])
    logits, maps = nnx.jit(lambda model, pixels: (model(pixels), model.features(pixels)))(
        model, pixels
    )
    assert np.isfinite(logits).all()
    scorer = Scorer(model)
    np.testing.assert_allclose(scorer.scores(clips), jax.nn.softmax(logits), atol=1e-5)
    pooled = maps.reshape(2, -1, maps.shape[-1]).mean(axis=1)
    np.testing.assert_allclose(scorer.features(clips), pooled, rtol=1e-4, atol=1e-6)
    assert scorer.sampling == SAMPLING
    importance = explain.frame_importance(model, clips[0, 0], 1)
    slope = jax.jit(jax.grad(lambda s: model(s * pixels[:1])[0, 1]))(1.0)
    assert importance.sum() == pytest.approx(float(slope), rel=1e-3, abs=1e-5)


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
