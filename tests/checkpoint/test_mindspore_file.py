"""MindSpore's checkpoints: what MindSpore wrote is read; what nobody should write is refused."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import squeezetime_jax as st
from squeezetime_jax.checkpoint.archive import CheckpointError
from squeezetime_jax.checkpoint.convert import to_state_dict
from squeezetime_jax.checkpoint.mindspore_file import MindSporeFile, read_weights, write_weights
from squeezetime_jax.checkpoint.store import convert_checkpoint, save_model

TINY = {"depth": 10, "width": 0.125, "num_frames": 4, "num_classes": 8}


def varint(number: int) -> bytes:
    return bytes([number & 0x7F | 0x80]) + varint(number >> 7) if number > 0x7F else bytes([number])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def value(tag: str | bytes, dims: list[int], kind: str, content: bytes) -> bytes:
    tensor = b"".join(field(1, size) for size in dims) + field(2, kind.encode())
    tag = tag.encode() if isinstance(tag, str) else tag
    return field(1, field(1, tag) + field(2, tensor + field(3, content)))


ONES = np.ones(3, "<f4").tobytes()
GOOD = value("a", [3], "Float32", ONES)


def read(path: Path) -> dict[str, Any]:
    with MindSporeFile(path) as file:
        return {name: file.read(name).tolist() for name in file.entries}


def read_bytes(tmp_path: Path, content: bytes) -> dict[str, Any]:
    (tmp_path / "x.ckpt").write_bytes(content)
    return read(tmp_path / "x.ckpt")


@pytest.mark.parametrize("form", ["types_crc", "appended", "scalar_1_9"])
def test_forms_that_mindspore_writes(golden: Path, form: str) -> None:
    expected = json.loads((golden / "mindspore" / "forms.json").read_text())[form]
    assert read(golden / "mindspore" / f"{form}.ckpt") == expected


def test_slices_of_a_tensor_are_joined(golden: Path) -> None:
    entries = read(golden / "mindspore" / "sliced.ckpt")
    assert entries == {"w": np.arange(700).reshape(7, 100).tolist(), "b": [0, 1, 2]}


@pytest.mark.parametrize(
    ("form", "message"), [("complex", "type 'Complex64'"), ("encrypted_aes_gcm", "encrypted")]
)
def test_forms_that_are_refused(golden: Path, form: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        MindSporeFile(golden / "mindspore" / f"{form}.ckpt")


def test_a_damaged_byte_fails_the_checksum(golden: Path, tmp_path: Path) -> None:
    content = bytearray((golden / "mindspore" / "types_crc.ckpt").read_bytes())
    content[100] ^= 1
    with pytest.raises(CheckpointError, match=r"checksum is [0-9a-f]{8}, expected [0-9a-f]{8}"):
        read_bytes(tmp_path, bytes(content))


def test_other_spellings_of_the_same_message(tmp_path: Path) -> None:
    tensor = field(3, ONES) + field(2, b"Float32") + field(1, varint(1) + varint(3))  # packed
    message = field(1, field(2, tensor) + field(1, b"a")) + field(9, 5) + field(8, b"later")
    assert read_bytes(tmp_path, message) == {"a": [[1.0, 1.0, 1.0]]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no entries"),
        (b"\n<html>", "past the end"),
        (GOOD[:-1], "past the end"),
        (GOOD + GOOD[:1], "cut off"),
        (GOOD + value("b", [3], "Float32", ONES) + GOOD, "'a' occurs twice"),
        (GOOD + value("a", [3], "Int32", ONES), "'a' occurs twice"),
        (value("a", [4], "Float32", ONES), "12 bytes, expected 16"),
        (value("a", [2**62, 2**62], "Float32", ONES), "12 bytes, expected"),
        (value("a", [2**64 - 1], "Float32", ONES), "negative dimension"),
        (value("a", [2**64], "Float32", ONES), "more than 64 bits"),
        (value("a", [1] * 9, "Float32", ONES), "more than 8 dimensions"),
        (value("a", [0, 2**62], "Float32", b""), "'a' is empty"),
        (value("a", [3], "random_op", ONES), "type 'random_op'"),
        (value("a", [0], "str", b"abc"), "not a multiple of 4"),
        (value("a" * 2000, [3], "Float32", ONES), "2000 bytes, expected at most 1024"),
        (value(b"\xff", [3], "Float32", ONES), "not printable"),
        (value("a\nb", [3], "Float32", ONES), "not printable"),
        (field(1, field(1, b"a")), "without a name or a tensor"),
        (field(1, field(1, b"a") + field(3, b"")), "hash table"),
        (field(1, field(1, b"a") + field(1, b"b")), "two names"),
        (field(1, 7), "without a length"),
        (b"\x0b" + GOOD, "wire type 3"),
        (b"\x02\x00", "field of number 0"),
        (b"\x0a" + b"\xff" * 11, "more than 64 bits"),
    ],
)
def test_hostile_files_are_refused_in_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        read_bytes(tmp_path, content)
    assert "\n" not in str(error.value)


def test_random_damage_is_read_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = b"".join(value(f"layer.{i}", [3], "Float32", ONES) for i in range(5))
    refused = 0
    for _ in range(500):
        content = bytearray(whole)
        for place in rng.integers(len(whole), size=3):
            content[place] = rng.integers(256)
        try:
            read_bytes(tmp_path, bytes(content[: rng.integers(1, len(whole) + 1)]))
        except CheckpointError:
            refused += 1
    assert refused > 250


def test_names_become_the_pytorch_releases(tmp_path: Path) -> None:
    names = {
        "net.conv1.weight": "backbone.net.conv1.weight",
        "net.bn1.gamma": "backbone.net.bn1.weight",
        "net.bn1.beta": "backbone.net.bn1.bias",
        "net.bn1.moving_mean": "backbone.net.bn1.running_mean",
        "net.bn1.moving_variance": "backbone.net.bn1.running_var",
        "net.fc.weight": "cls_head.fc_cls.weight",
    }
    others = ["moments.net.conv1.weight", "learning_rate", "epoch_num"]
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"".join(value(name, [3], "Float32", ONES) for name in [*names, *others]))
    weights, left_out = read_weights(path)
    assert list(weights) == list(names.values())
    assert left_out == others


def test_a_network_goes_through_the_format_unchanged(tmp_path: Path) -> None:
    save_model(tmp_path / "net", st.create("squeezetime", **TINY))
    convert_checkpoint(tmp_path / "net", tmp_path / "net.ckpt")
    weights, left_out = read_weights(tmp_path / "net.ckpt")
    assert not left_out
    assert "backbone.net.bn1.running_var" in weights
    there, back = (to_state_dict(st.load(tmp_path / name)) for name in ("net", "net.ckpt"))
    assert there.keys() == back.keys()
    for name, values in there.items():
        np.testing.assert_array_equal(back[name], values)


def test_another_network_has_no_such_format(tmp_path: Path) -> None:
    save_model(tmp_path / "net", st.create("x3d_xs", num_classes=2))
    with pytest.raises(CheckpointError, match="squeezetime only, got x3d_xs"):
        convert_checkpoint(tmp_path / "net", tmp_path / "net.ckpt")
    assert not (tmp_path / "net.ckpt").exists()


@pytest.mark.parametrize("name", ["a", pytest.param("b", marks=pytest.mark.slow)])
def test_logits_are_mindspores(reference: Callable[[str], Path], name: str) -> None:
    facts = json.loads(reference("mindspore/tiny.json").read_text())["inputs"][name]
    expected = np.load(reference("mindspore/tiny.npz"))[f"logits.{name}"]
    rng = np.random.default_rng(facts["seed"])
    clips = rng.standard_normal(facts["input_shape"]).astype(np.float32)
    model = st.load(reference("mindspore/tiny.ckpt"))
    logits = np.asarray(model(jnp.asarray(clips.transpose(0, 2, 3, 4, 1))))
    # 1.4e-6 is what MindSpore 2.7.1 itself differs from PyTorch by at most.
    assert np.abs(logits - expected).max() < 3e-6 * np.abs(expected).max()


def test_written_files_are_mindspores_to_the_byte(
    reference: Callable[[str], Path], tmp_path: Path
) -> None:
    path = reference("mindspore/tiny.ckpt")
    facts = json.loads(reference("mindspore/tiny.json").read_text())
    weights, _ = read_weights(path)
    assert {name: list(each.shape) for name, each in weights.items()} == {
        name: shape for _, shape, name in facts["entries"]
    }
    write_weights(tmp_path / "again.ckpt", weights)
    assert zlib.crc32((tmp_path / "again.ckpt").read_bytes()) == zlib.crc32(path.read_bytes())
