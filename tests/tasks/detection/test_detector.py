"""Head, loss and result beside mmaction2's numbers; weights in and out."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from squeezetime_jax import cli
from squeezetime_jax.checkpoint import convert, store
from squeezetime_jax.checkpoint.archive import CheckpointError
from squeezetime_jax.model.abstract import flat_leaves
from squeezetime_jax.model.config import SqueezeTimeConfig
from squeezetime_jax.model.squeezetime import SqueezeTime
from squeezetime_jax.tasks.detection import detector as weights
from squeezetime_jax.tasks.detection.detector import Detector, RoIHead, abstract_detector, stride_of
from squeezetime_jax.tasks.detection.task import above, box_loss, box_metrics

AVA = SqueezeTimeConfig.ava21()
BOXES = np.array(
    [(0, 0, 256, 256), (64, 32, 128, 224), (40, 40, 40, 90), (10.5, 200.25, 60.75, 255)],
    np.float32,
)
TINY = SqueezeTimeConfig.tiny(strides=(1, 2, 2, 1), num_classes=7, branches="tfc")


@pytest.fixture(scope="module")
def head() -> RoIHead:
    """The released head with weights by formula."""
    head = RoIHead(AVA)
    j, c = np.arange(81)[None, :], np.arange(128)[:, None]
    head.classifier.kernel.set_value(jnp.asarray(((13 * j + 17 * c) % 19 - 9) / 50, jnp.float32))
    head.classifier.bias.set_value(jnp.asarray(np.arange(81) / 100 - 0.4, jnp.float32))
    head.eval()
    return head


@pytest.fixture(scope="module")
def features() -> jax.Array:
    y, x, k = np.ogrid[:16, :16, :2048]
    values = (7 * k + 3 * y + 5 * x + (k // 16) * (y + 2 * x)) % 11
    return jnp.asarray(values / 10, jnp.float32)[None]


@pytest.fixture(scope="module")
def logits(head: RoIHead, features: jax.Array) -> np.ndarray:
    return np.asarray(head(features, jnp.asarray(BOXES)[None]))[0]


def test_features_under_boxes(head: RoIHead, features: jax.Array) -> None:
    pooled = np.asarray(head.pooled(features, jnp.asarray(BOXES)[None]))[0]
    np.testing.assert_allclose(
        pooled[:2, :4],
        [
            [0.51406252, 0.53125, 0.5078125, 0.50937498],
            [0.52177733, 0.53427732, 0.51455081, 0.52226561],
        ],
        atol=1e-6,
    )
    assert not pooled[2].any()


def test_logits_of_the_released_head(logits: np.ndarray) -> None:
    expected = [
        [-0.240781, -0.315500, -0.589125, -0.260688, -0.336594],
        [-0.241613, -0.313387, -0.588408, -0.261590, -0.335738],
        [-0.40, -0.39, -0.38, -0.37, -0.36],
    ]
    np.testing.assert_allclose(logits[:3, :5], expected, atol=2e-6)
    np.testing.assert_allclose(logits.sum(axis=1), [0.157312, 0.159264, 0, 0.143633], atol=1e-4)
    scores = np.asarray(jax.nn.sigmoid(logits[:, 0]))
    np.testing.assert_allclose(scores, [0.440094, 0.439889, 0.401312, 0.440771], atol=1e-6)


def test_loss_and_metrics_of_the_released_head(logits: np.ndarray) -> None:
    labels = np.zeros((1, 6, 81), bool)
    for row, actions in enumerate([(12, 17, 79), (1, 80), (14,)]):
        labels[0, row, list(actions)] = True
    padded = np.zeros((1, 6, 81), np.float32)
    padded[0, :4] = logits
    padded[0, 4:] = 99.0  # padding: no box, whatever stands there
    labels[0, 5, 3] = True
    padded, labels, mask = map(jnp.asarray, (padded, labels, np.arange(6)[None] < 4))
    assert float(box_loss(padded, labels, mask)) == pytest.approx(0.7053104, abs=1e-6)
    found = {name: float(value) for name, value in box_metrics(padded, labels, mask).items()}
    expected = {
        "recall_thr": 0.27777779, "precision_thr": 0.016463414,
        "recall_top3": 0.0, "precision_top3": 0.0,
        "recall_top5": 0.11111111, "precision_top5": 0.066666655,
    }  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-6)


def test_loss_is_a_mean_of_means_over_groups() -> None:
    """Two clips with one box and three boxes: each clip weighs the same, not each box."""
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.standard_normal((2, 3, 5)), jnp.float32)
    labels = jnp.zeros((2, 3, 5), bool).at[..., 2].set(True)
    mask = jnp.asarray([[True, False, False], [True, True, True]])
    apart = [float(box_loss(logits[n : n + 1], labels[n : n + 1], mask[n : n + 1])) for n in (0, 1)]
    assert float(box_loss(logits, labels, mask, 1)) == pytest.approx(np.mean(apart))
    together = (apart[0] + 3 * apart[1]) / 4
    assert float(box_loss(logits, labels, mask, None)) == pytest.approx(together)
    assert float(box_loss(logits, labels, jnp.zeros_like(mask))) == 0


def test_which_scores_become_detections() -> None:
    """Strictly more than the threshold, column 0 never, by action and then by box."""
    scores = np.array([[0.9, 0.002, 0.0020001, 0.5], [0.9, 0.6, 0.1, 0.0]], np.float32)
    box, action = above(scores, 0.002)
    assert list(zip(box.tolist(), action.tolist(), strict=True)) == [(1, 1), (0, 2), (1, 2), (0, 3)]


def test_size_of_the_released_detector() -> None:
    leaves = flat_leaves(abstract_detector(AVA))
    sizes = {
        path: int(np.prod(leaf.shape))
        for path, leaf in leaves.items()
        if not path.endswith((".mean", ".var"))
    }
    assert sum(sizes.values()) == 28_890_369
    assert sum(size for path, size in sizes.items() if path.startswith("head")) == 10_449
    assert stride_of(AVA) == 16


def test_initial_weights_of_the_head() -> None:
    config = SqueezeTimeConfig.tiny(num_classes=81, width=1.0, num_frames=1, branches="tfc")
    head = Detector(config, nnx.Rngs(0)).head.classifier
    std = float(jnp.std(head.kernel[...]))
    assert std == pytest.approx(np.sqrt(2 / (512 + 81)), rel=0.02)
    assert not np.asarray(head.bias[...]).any()


@pytest.fixture(scope="module")
def detector() -> Detector:
    model = Detector(TINY, nnx.Rngs(0))
    model.eval()
    return model


def test_dropout_comes_before_the_maximum() -> None:
    """With every feature 1, half are dropped and the kept doubled: the maximum is 2."""
    config = SqueezeTimeConfig.tiny(strides=(1, 2, 2, 1), num_classes=7)
    head = RoIHead(config)
    head.train()
    maps = jnp.ones((1, 4, 4, config.feature_channels))
    pooled = head.pooled(maps, jnp.asarray([[(0.0, 0.0, 64.0, 64.0)]]), jax.random.key(0))
    np.testing.assert_allclose(pooled, 2.0, rtol=1e-6)
    head.eval()
    np.testing.assert_allclose(head.pooled(maps, jnp.asarray([[(0.0, 0.0, 64.0, 64.0)]])), 1.0)


def test_channels_are_seen_as_features_times_moments() -> None:
    config = SqueezeTimeConfig.tiny(num_classes=7)
    maps = jnp.zeros((1, 4, 4, config.feature_channels)).at[..., 9].set(4.0)  # 9 // 4 frames = 2
    head = RoIHead(config)
    head.eval()
    box = jnp.asarray([[(0.0, 0.0, 16.0 * 8, 16.0 * 8)]])
    assert np.flatnonzero(head.pooled(maps, box)[0, 0]).tolist() == [2]


def test_released_names_in_and_out(detector: Detector, tmp_path) -> None:
    path = tmp_path / "detector.pth"
    weights.write_torch_file(path, detector, labels=[f"a{k}" for k in range(7)])
    names = set(weights.to_state_dict(detector))
    assert {"roi_head.bbox_head.fc_cls.weight", "backbone.net.conv1.weight"} <= names
    assert not any(name.startswith("cls_head") for name in names)
    loaded, report = weights.load_with_report(path)
    assert loaded.config == detector.config
    assert not report.adapted
    for name, array in weights.to_state_dict(loaded).items():
        np.testing.assert_array_equal(array, weights.to_state_dict(detector)[name], err_msg=name)
    assert store.read_labels(path) == [f"a{k}" for k in range(7)]


def test_the_command_converts_there_and_back(detector: Detector, tmp_path, capsys) -> None:
    first, ours, back = (str(tmp_path / name) for name in ("a.pth", "ours", "b.pth"))
    weights.write_torch_file(first, detector, labels=[f"a{k}" for k in range(7)])
    assert cli.main(["convert", first, ours]) == 0
    assert cli.main(["convert", ours, back]) == 0
    assert "unexpected      0" in capsys.readouterr().out
    assert store.read_meta(ours).task == "detection"
    assert store.read_labels(back) == [f"a{k}" for k in range(7)]
    after = weights.to_state_dict(weights.load_detector(back))
    for name, array in weights.to_state_dict(detector).items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)
    with pytest.raises(CheckpointError, match="got one for detection"):
        store.load(ours)


def test_a_recogniser_is_adapted_and_it_is_said(tmp_path, caplog) -> None:
    recogniser = SqueezeTime(SqueezeTimeConfig.tiny(branches="tfc"), nnx.Rngs(1))
    path = tmp_path / "k400.pth"
    convert.to_torch_file(path, recogniser)
    expected = {"num_classes": 7, "strides": (1, 2, 2, 1)}
    with caplog.at_level(logging.WARNING):
        model = weights.load_detector(path, **expected)
    assert "a new head of (7, 16) drawn" in caplog.text
    assert "layer4.0.downsample" in caplog.text
    assert "the stage keeps its resolution" in caplog.text
    mine, theirs = flat_leaves(model), flat_leaves(recogniser)
    shared = [name for name in mine if not name.startswith("head")]
    assert {name for name in theirs if name not in mine} == {
        name for name in theirs if name.startswith("stages.3.0.halving")
    }
    for name in shared:
        np.testing.assert_array_equal(mine[name][...], theirs[name][...], err_msg=name)
    with pytest.raises(CheckpointError, match="mismatched"):
        weights.load_detector(path)
    store.save_model(tmp_path / "ours", recogniser)
    again = weights.load_detector(tmp_path / "ours", **expected)
    np.testing.assert_array_equal(again.stem.conv.kernel[...], model.stem.conv.kernel[...])


def test_a_detectors_file_is_no_recognisers(detector: Detector, tmp_path) -> None:
    weights.write_torch_file(tmp_path / "d.pth", detector)
    with pytest.raises(CheckpointError, match="missing"):
        store.load(tmp_path / "d.pth")
