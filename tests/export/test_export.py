"""Exported files against the live network, and what is refused."""

import dataclasses
import importlib.util
import json
import tomllib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import squeezetime_jax.export.onnx
from squeezetime_jax import SqueezeTime, SqueezeTimeConfig, cli
from squeezetime_jax.checkpoint.convert import to_torch_file
from squeezetime_jax.data.augment import normalise
from squeezetime_jax.data.embedded import motion
from squeezetime_jax.errors import UserError
from squeezetime_jax.export import FORMATS, formats
from squeezetime_jax.export import write as exporting
from squeezetime_jax.export.check import Check, compare, reference
from squeezetime_jax.export.manifest import Manifest, manifest_path, read_manifest
from squeezetime_jax.export.runtime import open_runtime
from squeezetime_jax.export.write import ExportReport, export
from squeezetime_jax.peers import registry

SIDE = 48
# What a type may add to the logits of this network, over the largest of them.
TOLERANCE = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 3e-2, "int8": 0.15}


def needs(format: str) -> pytest.MarkDecorator:
    """Skips a test where the packages of a format are not installed."""
    return pytest.mark.needs(*formats.get(format).packages)


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


def write(model: Any, folder: Path, format: str, **options: Any) -> ExportReport:
    options = {"height": SIDE, "width": SIDE, **options}
    return export(model, folder / f"net{formats.get(format).suffix}", format=format, **options)


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No package of any format can be found."""
    absent = {module for name in FORMATS for module in formats.get(name).packages}
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in absent else find(name)
    )


def test_packages_are_those_of_the_export_extra() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    packages = {spec for name in FORMATS for spec in formats.get(name).packages.values()}
    assert packages == set(project["optional-dependencies"]["export"])


@pytest.mark.parametrize(
    ("format", "dtype"),
    [
        pytest.param(format, dtype, marks=needs(format))
        for format in FORMATS
        for dtype in formats.get(format).dtypes
    ],
)
def test_a_file_computes_what_the_network_does(
    model: SqueezeTime, tmp_path: Path, format: str, dtype: str
) -> None:
    examples = clips()
    # The entry is tried in both types over the grid, in each format with each.
    uint8 = dtype in ("float32", "int8")
    report = write(model, tmp_path, format, dtype=dtype, uint8=uint8, calibration=examples)
    found, expected = open_runtime(report.path)(examples), reference(model)(examples)
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    largest = np.abs(expected).max()
    assert np.abs(found - expected).max() <= TOLERANCE[dtype] * largest
    assert report.check.max_difference == pytest.approx(np.abs(found - expected).max(), abs=1e-3)
    assert report.num_bytes == sum(
        file.stat().st_size for file in tmp_path.iterdir() if file.suffix != ".json"
    )


@needs("onnx")
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
    model = network(**changes)
    report = write(model, tmp_path, "onnx", height=64, width=40)
    assert report.check.relative < 2e-6
    examples = clips(2, 64, 40, model.config.num_frames)
    result = compare(reference(model)(examples), open_runtime(report.path)(examples))
    assert result.relative < 2e-6


PEER = {"depth": 10, "width": 8, "num_frames": 2, "num_classes": 5}


@pytest.mark.parametrize(
    ("format", "dtype"),
    [
        pytest.param("stablehlo", "float32", marks=needs("stablehlo")),
        pytest.param("stablehlo", "bfloat16", marks=needs("stablehlo")),
        pytest.param("litert", "float32", marks=needs("litert")),
        pytest.param("litert", "float16", marks=needs("litert")),
    ],
)
def test_other_networks_are_written_too(tmp_path: Path, format: str, dtype: str) -> None:
    model = registry.create("tsm_r18", **PEER)
    kernel = model.head.classifier.kernel
    kernel.set_value(100 * kernel[...])
    examples = clips(frames=2)
    report = write(model, tmp_path, format, dtype=dtype, uint8=dtype == "float32")
    assert report.check.relative < TOLERANCE[dtype]
    assert report.manifest.network["name"] == "tsm_r18"
    expected = np.asarray(model(normalise(jax.numpy.asarray(examples))))
    largest = np.abs(expected).max()
    found = open_runtime(report.path)(examples)
    assert np.abs(found - expected).max() < TOLERANCE[dtype] * largest
    assert np.abs(expected[0] - expected[1]).max() > TOLERANCE[dtype] * largest


@needs("stablehlo")
@pytest.mark.parametrize("uint8", [False, True])
def test_the_normalisation_is_the_checkpoints_own(tmp_path: Path, uint8: bool) -> None:
    model = network()
    model.input = dataclasses.replace(
        registry.entry_of(model).input, crop_side=SIDE, mean=(10.0, 20.0, 30.0), std=(9.0, 8.0, 7.0)
    )
    report = write(model, tmp_path, "stablehlo", height=None, width=None, uint8=uint8)
    assert (report.manifest.height, report.manifest.width) == (SIDE, SIDE)
    assert read_manifest(report.path).mean == (10.0, 20.0, 30.0)
    assert report.check.relative < 2e-6
    examples = clips()
    by_hand = ((examples - np.array([10, 20, 30])) / np.array([9, 8, 7])).astype(np.float32)
    expected = np.asarray(model(jax.numpy.asarray(by_hand)))
    largest = np.abs(expected).max()
    assert np.abs(open_runtime(report.path)(examples) - expected).max() < 1e-5 * largest
    by_default = np.asarray(model(normalise(jax.numpy.asarray(examples))))
    assert np.abs(by_default - expected).max() > 1e-2 * largest


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_format_for_squeezetime_only_says_so(tmp_path: Path, format: str) -> None:
    with pytest.raises(UserError) as refused:
        write(registry.create("tsm_r18", **PEER), tmp_path, format)
    assert str(refused.value) == (
        f"format {format}: its graph is written for SqueezeTime only, and this network is tsm_r18;"
        " choose one of litert, stablehlo"
    )


def test_what_a_converter_refuses_is_one_line(
    model: SqueezeTime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("unknown operation\nat line 3")

    broken = dataclasses.replace(formats.get("onnx"), packages={}, write=fail)
    monkeypatch.setattr(squeezetime_jax.export.onnx, "FORMAT", broken)
    with pytest.raises(UserError, match="squeezetime in float32: unknown operation; try another"):
        write(model, tmp_path, "onnx")
    assert list(tmp_path.iterdir()) == []


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
    expected = (example[3, 1, 2, 1] - 116.28) / 57.12  # green of the last frame
    assert scaled[0, 1, 2, 3 * 3 + 1] == pytest.approx(expected, rel=1e-6)
    assert scaled.dtype == np.float32


@needs("onnx")
def test_a_manifest_says_how_the_file_is_used(model: SqueezeTime, tmp_path: Path) -> None:
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


def test_a_manifest_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    fields = {
        "format": "litert", "dtype": "int8", "uint8": True, "batch": 1, "num_frames": 16,
        "height": 40, "width": 40, "num_classes": 2, "short_side": 46, "frame_interval": 1,
        "labels": ["left", "right"], "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375], "network": {"depth": 10, "dtype": "float32"},
        "version": "0.1.0", "input": {"name": "clip", "shape": [1, 40, 40, 48]}, "output": {},
    }  # fmt: skip
    path = tmp_path / "net.tflite"
    manifest_path(path).write_text(json.dumps(fields))
    found = read_manifest(path).to_json()
    assert {name: found[name] for name in fields if name not in ("input", "output")} == {
        **{name: fields[name] for name in fields if name not in ("input", "output")},
        "mean": (123.675, 116.28, 103.53),
        "std": (58.395, 57.12, 57.375),
    }


@needs("onnx")
def test_nothing_is_overwritten_and_nothing_left_half(
    model: SqueezeTime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Check(num_clips=2, num_agreeing=2, max_difference=1e-3, max_logit=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "compare", lambda *_: wrong)
        with pytest.raises(UserError, match="not written: its logits differ"):
            write(model, tmp_path, "onnx")
    assert list(tmp_path.iterdir()) == []
    manifest_path(tmp_path / "net.onnx").write_text("mine")
    with pytest.raises(UserError, match=r"net\.onnx\.json: already exists"):
        write(model, tmp_path, "onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onnx", "dtype": "bfloat16"}, "bfloat16: not available in format onnx; choose"),
        ({"format": "litert", "dtype": "int8"}, "give some with --calibrate"),
        ({"format": "litert", "path": "net.onnx"}, "format litert must end in .tflite"),
        ({"format": "onnx", "height": 31}, "at least 32"),
        ({"format": "tflite", "path": "net.tflite"}, "format 'tflite' not found.*mean litert"),
        ({"format": "onx", "path": "net.onnx"}, "one of litert, onnx, .*mean onnx"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.usefixtures("nothing_installed")
def test_what_cannot_be_written_is_refused_before_packages_are_looked_for(
    model: SqueezeTime, tmp_path: Path, options: dict, message: str
) -> None:
    path = options.get("path") or f"net{formats.get(options['format']).suffix}"
    with pytest.raises(UserError, match=message):
        export(model, tmp_path / path, **{k: v for k, v in options.items() if k != "path"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("nothing_installed")
def test_a_missing_package_is_named_with_its_cure(model: SqueezeTime, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        write(model, tmp_path, "onnx")
    assert str(refused.value) == (
        "format onnx needs packages that are not installed; run pip install 'onnx>=1.23,<2'"
        " 'onnxruntime>=1.31,<2'"
    )
    with pytest.raises(UserError, match="run pip install 'openvino>="):
        formats.get("openvino").require(to_open=True)


@pytest.mark.parametrize("format", [pytest.param(name, marks=needs(name)) for name in FORMATS])
def test_a_damaged_file_is_told_in_one_line(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"net{formats.get(format).suffix}"
    with pytest.raises(UserError, match="file not found"):
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
    with pytest.raises(UserError, match="cannot be opened") as refused:
        open_runtime(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 0}, "height must be a positive integer, got 0"),
        ({"labels": ["one"]}, "1 labels for 8 classes"),
        ({"std": None}, "damaged"),
    ],
)
def test_a_damaged_manifest_is_told_in_one_line(
    tmp_path: Path, changes: dict, message: str
) -> None:
    fields = {"format": "onnx", "dtype": "float32", "uint8": True, "batch": None, "num_frames": 4}
    fields |= {"height": 48, "width": 48, "num_classes": 8, "mean": [1.5], "std": [1.5]}
    manifest_path(tmp_path / "net.onnx").write_text(json.dumps(fields | changes))
    with pytest.raises(UserError, match=message):
        read_manifest(tmp_path / "net.onnx")


def test_logits_are_compared() -> None:
    expected = np.array([[1.0, -4.0], [2.0, 3.0], [0.5, 0.0]], np.float32)
    found = np.array([[1.0, -3.5], [2.0, 1.0], [0.5, 0.0]], np.float32)
    result = compare(expected, found, np.array([1, 1, 0]))
    assert result == Check(3, 2, 2.0, 4.0, num_right=1, num_right_network=2)
    assert (result.agreement, result.relative) == (pytest.approx(2 / 3), 0.5)
    assert np.isnan(compare(expected, found * np.nan).max_difference)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of labelled videos: `train/` in class folders, and `test.txt`."""
    folder = tmp_path_factory.mktemp("videos")
    return motion.write_motion_dataset(folder, num_train=8, num_test=9, size=32, num_frames=12)


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "tflite"], "format 'tflite' not found; choose one of"),
        (["--format", "litert", "--dtype", "int4"], "dtype int4: not available in format litert"),
        (["--format", "litert", "--dtype", "int8"], "give some with --calibrate"),
        (["--format", "onnx", "--calibrate", "none"], "needs packages"),
        (["--format", "onnx", "--videos", "none.txt"], "none.txt: "),
    ],
)
def test_the_command_refuses_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", "no_checkpoint.pth", *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.usefixtures("nothing_installed")
def test_test_videos_that_are_not_below_the_root_are_told_before_anything_is_written(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "export",
        "no_checkpoint.pth",
        "--format",
        "onnx",
        "--videos",
        str(videos / "test.txt"),
    ]
    assert cli.main([*words, "--root", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    first = (videos / "test.txt").read_text().split()[0]
    assert f"{first}: " in error
    assert f"relative to {tmp_path}, --root" in error
    assert error.count("\n") == 1


@needs("litert")
def test_the_command_exports_compares_and_tests(
    videos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    to_torch_file(tmp_path / "tiny.pth", network(), labels=list(motion.CLASSES))
    words = ["export", str(tmp_path / "tiny.pth"), "--format", "litert", "--dtype", "int8"]
    words += ["--size", "32", "--out", str(tmp_path / "out" / "tiny.tflite"), "--json"]
    words += ["--calibrate", str(videos / "train"), "--clips", "5", "--videos"]
    assert cli.main([*words, str(videos / "test.txt")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["check"]["num_clips"] == 5
    assert found["test"]["videos"] == 9
    assert found["manifest"]["labels"] == list(motion.CLASSES)
    assert found["bytes"] < 500_000
    assert cli.main([*words, str(videos / "test.txt")]) == 1
    assert "already exists" in capsys.readouterr().err
