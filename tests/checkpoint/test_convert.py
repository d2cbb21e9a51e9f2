import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hostile_files import around, storage_id, tensor, text

import squeezetime_jax as st
from squeezetime_jax import SqueezeTimeConfig
from squeezetime_jax.checkpoint.archive import CheckpointError
from squeezetime_jax.checkpoint.convert import (
    from_torch_file,
    to_state_dict,
    to_torch_file,
)
from squeezetime_jax.checkpoint.stem import resample_stem
from squeezetime_jax.checkpoint.torch_file import TorchFile, write_torch_file
from squeezetime_jax.checkpoint.torch_names import bare_name, infer_config, rows
from squeezetime_jax.model.abstract import abstract_model, flat_leaves
from squeezetime_jax.model.squeezetime import squeeze
from squeezetime_jax.peers.released import PARAMETERS, Row

TINY = SqueezeTimeConfig.tiny(position_grids=(5, 4, 3, 2))
HEAD = ("cls_head.fc_cls.weight", "cls_head.fc_cls.bias")
StateDict = dict[str, np.ndarray]


def draw_state_dict(config: SqueezeTimeConfig = TINY, prefix: str = "backbone.net.") -> StateDict:
    """Distinct values in every weight and statistic; variances positive."""
    random = np.random.default_rng(0)
    leaves = flat_leaves(abstract_model(config))
    state_dict: StateDict = {}
    for row in rows(config, leaves):
        name = row.name if row.name.startswith("cls_head.") else prefix + row.name
        if row.order is None:
            state_dict[name] = np.zeros((), np.int64)
        else:
            shape = row.released_shape(leaves[row.path].shape)
            state_dict[name] = random.uniform(0.1, 1, shape).astype(np.float32)
    return state_dict


@pytest.fixture(scope="module")
def tiny() -> StateDict:
    return draw_state_dict()


def without(state_dict: StateDict, pattern: str) -> StateDict:
    return {name: v for name, v in state_dict.items() if not re.search(pattern, name)}


def same(a: StateDict, b: StateDict) -> bool:
    return list(a) == list(b) and all(
        a[name].dtype == b[name].dtype and np.array_equal(a[name], b[name]) for name in a
    )


# Names and layouts.


@pytest.mark.parametrize(
    ("kind", "released"),
    [
        ("conv_hw", (4, 3, 2, 5)),
        ("pointwise_hw", (4, 3, 1, 1)),
        ("linear", (4, 3)),
        ("depthwise_hw", (4, 1, 2, 3)),
        ("grid", (1, 4, 2, 3)),
    ],
)
def test_layouts_go_both_ways(kind: str, released: tuple[int, ...]) -> None:
    row = Row("", "", *PARAMETERS[kind][0][2:])
    array = np.arange(np.prod(released)).reshape(released)
    ours = row.to_ours(array)
    np.testing.assert_array_equal(row.to_released(ours), array)
    assert row.released_shape(ours.shape) == released


def test_a_convolution_kernel_turns_into_height_width_in_out() -> None:
    kernel = np.random.default_rng(0).standard_normal((4, 3, 2, 5))
    row = Row("", "", *PARAMETERS["conv_hw"][0][2:])
    assert row.to_ours(kernel)[1, 4, 2, 3] == kernel[3, 2, 1, 4]


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("backbone.net.conv1.weight", "conv1.weight"),
        ("module.backbone.net.layer1.0.bn1.bias", "layer1.0.bn1.bias"),
        ("module.conv1.weight", "conv1.weight"),
        ("net.bn1.weight", "bn1.weight"),
        ("layer4.2.conv3.weight", "layer4.2.conv3.weight"),
        ("module.cls_head.fc_cls.bias", "cls_head.fc_cls.bias"),
        ("backbone.net.fc.weight", "backbone.net.fc.weight"),
        ("teacher.backbone.net.conv1.weight", "teacher.backbone.net.conv1.weight"),
    ],
)
def test_prefixes_are_known(name: str, bare: str) -> None:
    assert bare_name(name) == bare


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        SqueezeTimeConfig.tiny(depth=18, width=0.1, num_frames=1),
        SqueezeTimeConfig.tiny(depth=50, strides=(1, 2, 2, 1), num_classes=3),
        SqueezeTimeConfig.tiny(depth=34, strides=(2, 1, 1, 2)),
        SqueezeTimeConfig.tiny(branches="conv3x3"),
        SqueezeTimeConfig.tiny(branches="tfc"),
        SqueezeTimeConfig.tiny(branches="tfc", temporal_focus=False),
        SqueezeTimeConfig.tiny(branches="ioi", position_encoding=False),
        SqueezeTimeConfig.tiny(branches="ioi", temporal_focus=False, position_encoding=False),
    ],
    ids=str,
)
def test_every_leaf_has_a_name_and_the_shapes_tell_the_configuration(
    config: SqueezeTimeConfig,
) -> None:
    leaves = flat_leaves(abstract_model(config))
    table = rows(config, leaves)
    filled = [row.path for row in table if row.order is not None]
    assert sorted(filled) == sorted(leaves)
    shapes = {
        row.name: row.released_shape(leaves[row.path].shape)
        for row in table
        if row.order is not None
    }
    found = infer_config(shapes)
    assert {**vars(found), "width": 0} == {**vars(config), "width": 0}
    assert found.planes == config.planes


# There and back.


def test_there_and_back_is_the_identity(tiny: StateDict) -> None:
    model = st.from_state_dict(tiny)
    assert model.config == TINY
    assert same(to_state_dict(model), tiny)


def test_pytorch_file_there_and_back(tiny: StateDict, tmp_path: Path) -> None:
    write_torch_file(tmp_path / "a.pth", {"state_dict": tiny, "optimizer": {"lr": 0.1}})
    model, report = from_torch_file(tmp_path / "a.pth")
    to_torch_file(tmp_path / "b.pth", model)
    with TorchFile(tmp_path / "b.pth") as file:
        found = {name: file.read(v) for name, v in file.contents["state_dict"].items()}
    assert same(found, tiny)
    counters = sum(name.endswith("num_batches_tracked") for name in tiny)
    assert len(report.used) == len(tiny) - counters
    assert len(report.left_out) == counters + 1
    assert report.left_out["optimizer"] == "beside the weights"
    assert not [*report.adapted, *report.missing, *report.unexpected, *report.mismatched]


def test_what_shapes_do_not_tell_survives_in_our_files(tiny: StateDict, tmp_path: Path) -> None:
    model = st.from_state_dict(tiny, pooling="max", dropout=0.1, dtype="bfloat16")
    to_torch_file(tmp_path / "a.pth", model)
    assert st.load(tmp_path / "a.pth").config == model.config
    assert st.load(tmp_path / "a.pth", pooling="average").config.pooling == "average"


@pytest.mark.needs("torch")
def test_strict_loading_in_pytorch(tiny: StateDict, tmp_path: Path) -> None:
    import torch
    from torch_twin import Twin

    twin = Twin(TINY)
    model = st.from_state_dict(tiny)
    to_torch_file(tmp_path / "a.pth", model)
    state_dict = torch.load(tmp_path / "a.pth", weights_only=True)["state_dict"]
    assert list(state_dict) == list(twin.state_dict())
    twin.load_state_dict(state_dict, strict=True)
    assert same({n: v.numpy() for n, v in twin.state_dict().items()}, tiny)


@pytest.mark.parametrize(
    ("prefix", "key"),
    [("", None), ("module.", "state_dict"), ("module.backbone.net.", "model"), ("net.", None)],
)
def test_prefixes_and_places(prefix: str, key: str | None, tmp_path: Path) -> None:
    tiny = draw_state_dict(prefix=prefix)
    write_torch_file(tmp_path / "a.pth", {key: tiny, "epoch": 3} if key else tiny)
    model, report = from_torch_file(tmp_path / "a.pth")
    assert same(to_state_dict(model, prefix), tiny)
    assert ("epoch" in report.left_out) == (key is not None)


def test_the_model_is_independent_of_the_arrays_and_in_evaluation_mode() -> None:
    mine = draw_state_dict()
    model = st.from_state_dict(mine)
    for array in mine.values():
        array[...] = 0
    assert same(to_state_dict(model), draw_state_dict())
    assert model.stem.norm.use_running_average
    assert model.head.dropout.deterministic


def test_a_released_training_checkpoint_loads(reference: Callable[[str], Path]) -> None:
    model, report = from_torch_file(reference("golden/mmengine_tiny.pth"))
    assert model.config == SqueezeTimeConfig(width=0.125, num_classes=5)
    assert len(report.used) == 653
    rules = {"meta", "message_hub", "optimizer", "param_schedulers"}
    assert {n for n, rule in report.left_out.items() if rule == "beside the weights"} == rules
    with TorchFile(reference("golden/mmengine_tiny.pth")) as file:
        released = {name: file.read(v) for name, v in file.contents["state_dict"].items()}
    ours = to_state_dict(model)
    assert list(ours) == list(released)
    for name in report.used:
        np.testing.assert_array_equal(ours[name], released[name])


# The books.


def refusal(state_dict: StateDict, **options: Any) -> str:
    with pytest.raises(CheckpointError) as error:
        st.from_state_dict(state_dict, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_statistics_may_not_go_missing(tiny: StateDict) -> None:
    message = refusal(without(tiny, "running_mean"))
    assert "missing (backbone.net.bn1.running_mean (8,), " in message
    assert "--allow PATTERN" in message


def test_unexpected_and_mismatched_entries_are_refused(tiny: StateDict) -> None:
    extra = tiny | {"backbone.net.layer1.0.conv9.weight": np.zeros((3, 2), np.float32)}
    assert "1 unexpected (backbone.net.layer1.0.conv9.weight (3, 2))" in refusal(extra)
    name = "backbone.net.layer2.0.bn1.weight"
    wrong = tiny | {name: np.zeros(3, np.float32)}
    assert f"1 mismatched ({name} has shape (3,), expected (16,))" in refusal(wrong)
    assert f"1 mismatched ({name} is int32" in refusal(tiny | {name: np.zeros(16, np.int32)})


def test_patterns_allow(tiny: StateDict, caplog: pytest.LogCaptureFixture) -> None:
    part = without(tiny, r"layer2\.0\.bn1\.bias") | {"x": np.zeros(2, np.float32)}
    assert "1 missing" in refusal(part, allow="^x$")
    assert "1 unexpected" in refusal(part, allow=r"bn1\.bias")
    assert "is not a regular expression" in refusal(part, allow="(")
    model = st.from_state_dict(part, allow=["^x$", r"bn1\.bias"])
    np.testing.assert_array_equal(model.stages[1][0].norm1.bias[...], np.zeros(16))
    assert "x: drawn anew or dropped, as allowed" in caplog.text


def test_two_names_for_one_weight_are_refused(tiny: StateDict) -> None:
    assert "name one weight" in refusal(tiny | {"module.conv1.weight": np.zeros(2, np.float32)})


def test_other_files_are_refused(tmp_path: Path) -> None:
    assert "not SqueezeTime's weights" in refusal({"layer1.0.conv1.weight": np.zeros(2)})
    assert "not SqueezeTime's weights" in refusal({})
    for contents, words in (
        ([1], "contains a list, expected a state dict"),
        ({"net": {}}, "no tensors in it"),
    ):
        write_torch_file(tmp_path / "a.pth", contents)
        with pytest.raises(CheckpointError, match=words):
            st.load(tmp_path / "a.pth")


def test_weights_may_not_share_storage_without_end(tmp_path: Path) -> None:
    names = b"".join(text(f"layer1.{i}.w") + b"h\x07" for i in range(30))
    shared = tensor((1000,), (1,), storage=storage_id(numel=1000)) + b"q\x070"
    (tmp_path / "a.pth").write_bytes(
        around(b"\x80\x02" + shared + b"}(" + names + b"u.", bytes(4000))
    )
    with pytest.raises(CheckpointError, match="share storage and claim 120,000 bytes"):
        st.load(tmp_path / "a.pth")


def test_unknown_fields_are_refused(tiny: StateDict) -> None:
    assert "'squeezetime' has no field 'frames'" in refusal(tiny, frames=8)
    assert "SqueezeTimeConfig.dropout must be in" in refusal(tiny, dropout=2.0)


def test_the_report_names_everything(tiny: StateDict, tmp_path: Path) -> None:
    write_torch_file(tmp_path / "a.pth", {"state_dict": tiny, "optimizer": {}})
    text = str(from_torch_file(tmp_path / "a.pth", num_classes=3)[1])
    assert "squeezetime, 4 frames, 10 layers, width 0.125, strides (1, 2, 2, 2), 3 classes" in text
    assert "beside the weights: optimizer" in text
    assert "(8,) dropped, a new head of (3,) drawn: cls_head.fc_cls.bias" in text
    for kind in ("missing", "unexpected", "mismatched"):
        assert re.search(rf"{kind} +0", text)


# Adaptation.


def test_another_number_of_classes(tiny: StateDict, caplog: pytest.LogCaptureFixture) -> None:
    model = st.from_state_dict(tiny, num_classes=21)
    assert len(caplog.records) == 1
    assert "a new head of (21, 64) drawn" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING
    kernel = np.asarray(model.head.classifier.kernel[...])
    assert kernel.shape == (64, 21)
    assert 0.005 < kernel.std() < 0.02  # normal(0, 0.01)
    ours = to_state_dict(model)
    assert same(without(ours, "cls_head"), without(tiny, "cls_head"))


def test_a_backbone_alone_needs_a_number_of_classes(tiny: StateDict) -> None:
    backbone = without(tiny, "cls_head")
    assert "give num_classes for a new head" in refusal(backbone)
    assert st.from_state_dict(backbone, num_classes=5).config.num_classes == 5
    assert st.from_state_dict(backbone, allow="cls_head").config.num_classes == 400


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 8, 32])
def test_a_constant_clip_survives_another_number_of_frames(frames: int, tiny: StateDict) -> None:
    model = st.from_state_dict(tiny, num_frames=frames)
    image = np.random.default_rng(0).standard_normal((1, 1, 64, 64, 3)).astype(np.float32)
    expected = st.from_state_dict(tiny).stem(squeeze(jnp.asarray(np.repeat(image, 4, 1))))
    found = model.stem(squeeze(jnp.asarray(np.repeat(image, frames, 1))))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_an_image_stem_is_inflated_evenly() -> None:
    kernel = np.random.default_rng(0).standard_normal((8, 3, 5, 5)).astype(np.float32)
    inflated = resample_stem(kernel, 16).reshape(8, 3, 16, 5, 5)
    np.testing.assert_allclose(inflated, np.repeat(kernel[:, :, None] / 16, 16, 2), rtol=1e-6)


def test_resampling_keeps_frames_in_time() -> None:
    # Only the third of four frames counts: so do those of eight that are nearest in time.
    kernel = np.zeros((1, 12, 1, 1), np.float32)
    kernel[0, 2] = 1
    np.testing.assert_allclose(
        resample_stem(kernel, 8)[0, :8, 0, 0], [0, 0, 0, 0.125, 0.375, 0.375, 0.125, 0]
    )
    assert not resample_stem(kernel, 8)[0, 8:].any()  # the other colours
    np.testing.assert_allclose(resample_stem(kernel, 2)[0, :2, 0, 0], [0.25, 0.75])


def test_detection_strides(tiny: StateDict, caplog: pytest.LogCaptureFixture) -> None:
    detection = st.from_state_dict(tiny, strides=(1, 2, 2, 1))
    assert "dropped, the stage keeps its resolution" in caplog.text
    features = jax.eval_shape(detection.features, jnp.ones((1, 4, 64, 64, 3)))
    assert features.shape == (1, 4, 4, 64)
    coarse = to_state_dict(detection)
    assert same(without(tiny, r"layer4\.0\.downsample"), coarse)
    assert st.from_state_dict(coarse).config.strides == (1, 2, 2, 1)
    again = st.from_state_dict(coarse, strides=(1, 2, 2, 2))
    kernel = np.asarray(again.stages[3][0].halving.conv.kernel[...])
    assert abs(kernel.std() / np.sqrt(2 / (4 * 32)) - 1) < 0.3  # He-normal, PyTorch's fan-out
    assert "new weights drawn for the stride" in caplog.text
    assert list(to_state_dict(again)) == list(tiny)


def test_a_detector_gives_its_backbone(tiny: StateDict) -> None:
    head = {"roi_head.bbox_head.fc_cls.weight": np.zeros((81, 4), np.float32)}
    model = st.from_state_dict(without(tiny, "cls_head") | head, num_classes=3)
    assert same(without(to_state_dict(model), "cls_head"), without(tiny, "cls_head"))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_types_are_converted_and_announced(
    dtype: Any, tiny: StateDict, caplog: pytest.LogCaptureFixture
) -> None:
    name = "backbone.net.bn1.weight"
    model = st.from_state_dict(tiny | {name: tiny[name].astype(dtype)})
    assert f"{name}: {np.dtype(dtype)} converted to float32" in caplog.text
    expected = tiny[name].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(model.stem.norm.scale[...], expected)


@pytest.mark.usefixtures("float64")
def test_double_precision_survives() -> None:
    doubles = {
        name: v.astype(np.float64) / 3 if v.dtype == np.float32 else v
        for name, v in draw_state_dict().items()
    }
    assert same(to_state_dict(st.from_state_dict(doubles, dtype="float64")), doubles)
