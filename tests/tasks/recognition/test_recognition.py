"""The task of recognition: what a step gets, and runs on small videos with any network."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from squeezetime_jax import cli, load
from squeezetime_jax.data.augment import MEAN, STD
from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.recognition.experiment import Recognition as Experiment
from squeezetime_jax.tasks.recognition.task import Recognition
from squeezetime_jax.training import config, runner
from squeezetime_jax.training.report import Reporter, read_metrics

# ml_collections' own
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def _experiment(**changes: Any) -> Experiment:
    fields = config.default()
    fields.model.update(depth=10, width=0.125, num_frames=2, num_classes=4, bn_group_size=2)
    colours = dict.fromkeys(("brightness", "contrast", "saturation", "hue", "erase", "flip"), 0.0)
    fields.augmentation.update(colours)
    for path, value in changes.items():
        section, name = path.split("__")
        fields[section][name] = value
    return config.parse(fields)


def _prepared(experiment: Experiment, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Clips of 4 labels, and what a step gets of them."""
    clips = np.random.default_rng(0).integers(0, 256, (4, 2, 6, 8, 3), np.uint8)
    batch = {"clips": jnp.asarray(clips), "labels": jnp.arange(4, dtype=jnp.int32)}
    prepared = jax.jit(Recognition(experiment).prepare)(jax.random.key(seed), batch, jnp.arange(4))
    normalised = (clips.astype(np.float32) - MEAN) / np.array(STD)
    return normalised, {name: np.asarray(value) for name, value in prepared.items()}


def test_clips_are_normalised_and_labels_become_targets() -> None:
    normalised, prepared = _prepared(_experiment())
    np.testing.assert_allclose(prepared["clips"], normalised, atol=1e-5)
    np.testing.assert_array_equal(prepared["targets"], np.eye(4))
    np.testing.assert_array_equal(prepared["labels"], [0, 1, 2, 3])


def test_smoothed_targets() -> None:
    _, prepared = _prepared(_experiment(optimizer__label_smoothing=0.2))
    np.testing.assert_allclose(prepared["targets"], 0.8 * np.eye(4) + 0.05, atol=1e-6)


def test_flipped_clips_have_the_label_of_the_opposite_direction() -> None:
    always = _experiment(augmentation__flip=1.0, augmentation__flip_labels=(1, 0, 2, 3))
    normalised, prepared = _prepared(always)
    np.testing.assert_allclose(prepared["clips"], normalised[:, :, :, ::-1], atol=1e-5)
    np.testing.assert_array_equal(prepared["labels"], [1, 0, 2, 3])
    np.testing.assert_array_equal(prepared["targets"], np.eye(4)[[1, 0, 2, 3]])


def test_mixed_targets_are_as_visible_as_the_clips() -> None:
    # Partners are the first and second clip, and the third and fourth: groups of two.
    normalised, prepared = _prepared(_experiment(optimizer__mixup=1.0))
    share = prepared["targets"][0, 0]
    assert 0.05 < share < 0.95
    mixed = share * normalised[0] + (1 - share) * normalised[1]
    np.testing.assert_allclose(prepared["clips"][0], mixed, atol=1e-5)
    np.testing.assert_allclose(prepared["targets"][3], [0, 0, 1 - share, share], atol=1e-6)


SMALL = {
    "epochs": 1,
    "batch_size": 8,
    "data.motion.num_train": 16,
    "data.motion.num_test": 8,
    "data.motion.size": 32,
    "data.motion.num_frames": 8,
    "data.short_side": 32,
    "data.crop_size": 32,
    "evaluation.short_side": 32,
    "evaluation.crop_size": 32,
    "evaluation.batch_size": 8,
    "evaluation.every_epochs": 1.0,
    "optimizer.learning_rate": 0.01,
    "run.log_steps": 1,
    "run.tensorboard": False,
}


def small(name: str, **changes: Any) -> Any:
    """A run of two steps on 16 small videos, with a network of the register."""
    words = [f"--config.{field}={value}" for field, value in {**SMALL, **changes}.items()]
    return config.read(["--config=demo", f"--config.model.name={name}", *words])


@pytest.mark.parametrize(
    ("name", "num_frames"), [("tsm_r18", 4), pytest.param("i3d_r18", 8, marks=pytest.mark.slow)]
)
def test_any_network_is_trained_and_evaluated(
    name: str, num_frames: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that mixes frames in 2-D, and one of 3-D convolutions."""
    sizes = {"model.depth": 10, "model.width": 8, "model.num_frames": num_frames}
    fields = small(name, **sizes, **{"model.bn_group_size": 4})
    assert (fields.model.name, fields.model.num_classes) == (name, 8)  # of the file
    runner.train(fields, tmp_path, Reporter())
    losses = [line["loss"] for line in read_metrics(tmp_path) if line["kind"] == "train"]
    assert len(losses) == 2
    assert losses[0] == pytest.approx(np.log(8), rel=0.2)  # of eight classes that look alike
    meta = json.loads((tmp_path / "checkpoints" / "2" / "meta" / "metadata").read_text())
    assert meta["config"]["name"] == name
    sizes = [meta["input"][each] for each in ("frame_interval", "short_side", "crop_side")]
    assert sizes == [2, 32, 32]
    (scores,) = [line for line in read_metrics(tmp_path) if line["kind"] == "eval"]
    assert scores["videos"] == 8
    capsys.readouterr()
    # The same from the checkpoint, whatever network the config has.
    words = [f"--config.{field}={value}" for field, value in SMALL.items()]
    assert (
        cli.main(["eval", "--config", "demo", "--checkpoint", str(tmp_path), *words, "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert {name: found[name] for name in ("top1", "top5", "videos")} == {
        name: scores[name] for name in ("top1", "top5", "videos")
    }
    # As weights to start from: another number of classes has a new head.
    model, other = load(tmp_path), load(tmp_path, num_classes=3)
    assert other.head.classifier.kernel.shape[-1] == 3
    one, two = nnx.state(model.backbone), nnx.state(other.backbone)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match=f"weights of the network '{name}', expected 'squeezetime'"):
        load(tmp_path, name="squeezetime")


def test_losses_of_auxiliary_heads_are_added_with_their_weights() -> None:
    class Stub:
        def forward(self, *_: object, key: object, method: str = "__call__") -> tuple:
            even, sure = jnp.zeros((2, 4)), jnp.asarray([[9.0, 0, 0, 0], [0, 9.0, 0, 0]])
            outputs = (even, [(0.5, sure), (0.25, even)]) if method == "with_auxiliary" else even
            return outputs, {}

    task = object.__new__(Recognition)
    task.network = Stub()
    labels = jnp.asarray([0, 1])
    batch = {"clips": labels, "labels": labels, "targets": jax.nn.one_hot(labels, 4)}
    for has_auxiliary, expected in (
        (False, math.log(4)),
        (True, 1.25 * math.log(4) + 0.5 * math.log(1 + 3 * math.exp(-9))),
    ):
        task._has_auxiliary = has_auxiliary
        loss, _ = task.loss({}, {}, batch, jax.random.key(0))
        assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_clips_that_a_network_does_not_take_are_one_line() -> None:
    class Stub:
        def forward(self, *_: object, key: object) -> tuple:
            raise ValueError("the clips have too few frames")

    task = object.__new__(Recognition)
    task.network, task._has_auxiliary = Stub(), False
    batch = {name: jnp.zeros(2) for name in ("clips", "labels", "targets")}
    with pytest.raises(UserError, match=r"^config: the clips have too few frames$"):
        task.loss({}, {}, batch, jax.random.key(0))
