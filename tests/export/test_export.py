"""Exported files against the live network, and what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from squeezetime_jax import SqueezeTime, SqueezeTimeConfig, cli
from squeezetime_jax.errors import UserError
from squeezetime_jax.export import packages
from squeezetime_jax.export import write as exporting
from squeezetime_jax.export.check import Check, Reference, check
from squeezetime_jax.export.manifest import Manifest, manifest_path, read_manifest
from squeezetime_jax.export.runtimes import open_runtime
from squeezetime_jax.export.write import DTYPES, PACKAGES, SUFFIXES, export

SIDE = 48
FORMATS = list(DTYPES)
# What a type may add to the logits of this network, over the largest of them.
TOLERANCE = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 3e-2, "int8": 0.15}


def require(format: Any) -> None:
    """Skip where an optional package is absent."""
    try:
        packages.require(*PACKAGES[format])
    except UserError as error:
        pytest.skip(str(error))


def network(seed: int = 0, **changes: Any) -> SqueezeTime:
    """A tiny network whose batch norms and logits are not trivial."""
    model = SqueezeTime(SqueezeTimeConfig.tiny(**changes), nnx.Rngs(seed))
    rng = np.random.default_rng(seed)
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        if path[-1] in ("mean", "var", "scale") or "norm" in str(path[-2]):
            values = rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
            leaf.set_value(jax.numpy.asarray(values - 0.9 * (path[-1] in ("mean", "bias"))))
    kernel = model.head.classifier.kernel
    kernel.set_value(100 * kernel[...])
    model.eval()
    return model


@pytest.fixture(scope="module")
def model() -> SqueezeTime:
    return network()


def clips(count: int = 3, height: int = SIDE, width: int = SIDE, frames: int = 4) -> np.ndarray:
    shape = (count, frames, height, width, 3)
    return np.random.default_rng(7).integers(0, 256, shape, np.uint8)


def write(model: SqueezeTime, path: Path, format: Any, **options: Any) -> exporting.ExportReport:
    options = {"height": SIDE, "width": SIDE, **options}
    return export(model, path / f"net{SUFFIXES[format]}", format=format, **options)


@pytest.mark.parametrize(
    ("format", "dtype"), [(format, dtype) for format in FORMATS for dtype in DTYPES[format]]
)
def test_a_file_computes_what_the_network_does(
    model: SqueezeTime, tmp_path: Path, format: Any, dtype: Any
) -> None:
    require(format)
    examples = clips()
    # The entry is tried in both types over the grid, in each format with each.
    uint8 = dtype in ("float32", "int8")
    report = write(model, tmp_path, format, dtype=dtype, uint8=uint8, calibration=examples)
    found, wanted = open_runtime(report.path)(examples), Reference(model)(examples)
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    largest = np.abs(wanted).max()
    assert np.abs(found - wanted).max() <= TOLERANCE[dtype] * largest
    assert report.check.max_difference == pytest.approx(np.abs(found - wanted).max(), abs=1e-3)
    assert report.num_bytes == sum(
        file.stat().st_size for file in tmp_path.iterdir() if file.suffix != ".json"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"branches": "ioi"},
        {"branches": "tfc"},
        {"branches": "conv3x3"},
        {"temporal_focus": False},
        {"position_encoding": False, "pooling": "max"},
        {"depth": 50, "strides": (1, 2, 2, 1)},
        {"num_frames": 2, "width": 0.2},
    ],
    ids=str,
)
def test_every_kind_of_network_is_written_as_onnx(tmp_path: Path, changes: dict) -> None:
    require("onnx")
    model = network(**changes)
    report = write(model, tmp_path, "onnx", height=64, width=40)
    assert report.check.relative < 2e-6
    examples = clips(2, 64, 40, model.config.num_frames)
    assert check(Reference(model), open_runtime(report.path), examples).relative < 2e-6


def test_channels_are_frames_side_by_side() -> None:
    manifest = Manifest(
        format="onnx",
        dtype="float32",
        uint8=True,
        batch=None,
        num_frames=4,
        height=2,
        width=3,
        num_classes=8,
    )
    (example,) = clips(1, 2, 3)
    packed = manifest.pack(example[None])
    assert packed.shape == (1, 2, 3, 12)
    np.testing.assert_array_equal(packed[0], np.concatenate(example, axis=-1))
    scaled = dataclasses.replace(manifest, uint8=False).pack(example[None])
    wanted = (example[3, 1, 2, 1] - 116.28) / 57.12  # green of the last frame
    assert scaled[0, 1, 2, 3 * 3 + 1] == pytest.approx(wanted, rel=1e-6)
    assert scaled.dtype == np.float32


def test_a_manifest_says_how_the_file_is_used(model: SqueezeTime, tmp_path: Path) -> None:
    require("onnx")
    names = [f"class {k}" for k in range(8)]
    report = write(model, tmp_path, "onnx", labels=names, short_side=54, frame_interval=2)
    assert read_manifest(report.path) == report.manifest
    found = json.loads(manifest_path(report.path).read_text())
    assert found["labels"] == names
    assert found["input"]["shape"] == ["any", SIDE, SIDE, 12]
    assert found["input"]["dtype"] == "float32"
    assert (found["short_side"], found["frame_interval"]) == (54, 2)
    assert found["mean"] == [123.675, 116.28, 103.53]
    assert found["network"]["num_frames"] == 4


def test_nothing_is_overwritten_and_nothing_left_half(
    model: SqueezeTime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("onnx")
    wrong = Check(num_clips=2, num_agreeing=2, max_difference=1e-3, max_logit=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "check", lambda *_: wrong)
        with pytest.raises(UserError, match="not written, for its logits differ"):
            write(model, tmp_path, "onnx")
    assert list(tmp_path.iterdir()) == []
    manifest_path(tmp_path / "net.onnx").write_text("mine")
    with pytest.raises(UserError, match=r"net\.onnx\.json: exists already"):
        write(model, tmp_path, "onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onnx", "dtype": "bfloat16"}, "is nothing that onnx computes in"),
        ({"format": "litert", "dtype": "int8"}, "give some, with --calibrate"),
        ({"format": "litert", "path": "net.onnx"}, "litert files end in .tflite"),
        ({"format": "onnx", "height": 31}, "at least 32"),
    ],
)
def test_what_cannot_be_is_refused(
    model: SqueezeTime, tmp_path: Path, options: dict, message: str
) -> None:
    path = tmp_path / options.pop("path", f"net{SUFFIXES[options['format']]}")
    with pytest.raises(UserError, match=message):
        export(model, path, **options)
    assert not path.exists()


def test_a_missing_package_is_named_with_its_cure(
    model: SqueezeTime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"needs the package no_such_package.*pip install"):
        packages.needs("no_such_package.part")
    monkeypatch.setitem(PACKAGES, "onnx", ("no_such_package",))
    with pytest.raises(UserError, match="needs the package no_such_package"):
        write(model, tmp_path, "onnx")


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_file_is_told_in_one_line(
    model: SqueezeTime, tmp_path: Path, format: Any
) -> None:
    require(format)
    path = tmp_path / f"net{SUFFIXES[format]}"
    with pytest.raises(UserError, match="found no such file"):
        open_runtime(path)
    manifest = Manifest(
        format=format,
        dtype="float32",
        uint8=True,
        batch=None,
        num_frames=4,
        height=SIDE,
        width=SIDE,
        num_classes=8,
    )
    manifest_path(path).write_text(json.dumps(manifest.to_json()))
    path.write_bytes(b"no network" * 100)
    with pytest.raises(UserError, match="cannot be opened"):
        open_runtime(path)
    manifest_path(path).write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        open_runtime(path)


def test_checks_add_up() -> None:
    total = Check(2, 1, 0.5, 3.0, 1, 2) + Check(3, 3, 0.1, 4.0, 2, 3)
    assert total == Check(5, 4, 0.5, 4.0, 3, 5)
    assert (total.agreement, total.relative) == (0.8, 0.125)
    assert np.isnan((Check() + Check(1, 1, float("nan"), 1.0)).max_difference)


def test_the_command_exports_compares_and_tests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    require("litert")
    from squeezetime_jax.checkpoint.convert import to_torch_file
    from squeezetime_jax.data.embedded import motion

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    videos = motion.write_motion_dataset(
        tmp_path / "videos", num_train=8, num_test=9, size=32, num_frames=12
    )
    to_torch_file(tmp_path / "tiny.pth", network(), labels=list(motion.CLASSES))
    words = ["export", str(tmp_path / "tiny.pth"), "--format", "litert", "--dtype", "int8"]
    words += ["--size", "32", "--out", str(tmp_path / "out" / "tiny.tflite"), "--json"]
    assert cli.main(words) == 1
    assert "give some, with --calibrate" in capsys.readouterr().err
    words += ["--calibrate", str(videos / "train"), "--clips", "5", "--videos"]
    assert cli.main([*words, str(videos / "test.txt")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["check"]["num_clips"] == 5
    assert found["test"]["videos"] == 9
    assert found["manifest"]["labels"] == list(motion.CLASSES)
    assert found["bytes"] < 500_000
    assert cli.main([*words, str(videos / "test.txt")]) == 1
    assert "exists already" in capsys.readouterr().err
