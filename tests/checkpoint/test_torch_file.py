import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hostile_files import around, integer, state_dict, storage_id, tensor, text, zip_bytes

from squeezetime_jax.checkpoint.archive import CheckpointError
from squeezetime_jax.checkpoint.inert_pickle import MAX_OPCODES, Global, Inert, loads
from squeezetime_jax.checkpoint.torch_file import StoredTensor, TorchFile, write_torch_file

DTYPES = (
    np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.int32, np.int16, np.int8,
    np.uint8, np.bool_,
)  # fmt: skip


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        TorchFile(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.pth"


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        f"{np.dtype(dtype).name}.{len(shape)}": np.asarray(9 * random.standard_normal(shape), dtype)
        for dtype in DTYPES
        for shape in ((), (5,), (3, 4), (2, 0, 3))
    }


def test_written_files_are_read_back(path: Path) -> None:
    contents = {"state_dict": arrays(), "meta": {"n": [1, -(2**40), 2.5, None, True, ("é", 1)]}}
    write_torch_file(path, contents)
    with TorchFile(path) as file:
        assert file.contents["meta"] == contents["meta"]
        for name, array in arrays().items():
            stored = file.contents["state_dict"][name]
            found = file.read(stored)
            assert (
                (stored.shape, stored.dtype)
                == (array.shape, array.dtype)
                == (
                    found.shape,
                    found.dtype,
                )
            )
            np.testing.assert_array_equal(found, array)
            assert not found.flags.writeable


@pytest.mark.needs("torch")
def test_torch_reads_what_we_write(path: Path) -> None:
    import torch

    write_torch_file(path, {"state_dict": arrays(), "meta": {"epoch": 3, "x": [1.5, (2,)]}})
    for mapped in (False, True):
        found = torch.load(path, weights_only=True, mmap=mapped)
        assert found["meta"] == {"epoch": 3, "x": [1.5, (2,)]}
        for name, array in arrays().items():
            entry = found["state_dict"][name]
            assert str(entry.dtype) == f"torch.{array.dtype.name}"
            np.testing.assert_array_equal(entry.float().numpy(), array.astype(np.float32))


def test_storages_are_aligned(path: Path) -> None:
    write_torch_file(path, arrays())
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        assert archive.testzip() is None
        for info in archive.infolist():
            file.seek(info.header_offset + 26)
            name, extra = struct.unpack("<HH", file.read(4))
            assert (info.header_offset + 30 + name + extra) % 64 == 0


@pytest.mark.needs("torch")
def test_we_read_what_torch_writes(path: Path) -> None:
    import torch

    base = torch.arange(24.0).reshape(4, 6)
    contents = {
        "transposed": base.T,
        "slice": base[1:3, ::2],
        "parameter": torch.nn.Parameter(base),
        "shared": base,
        "half": base.bfloat16(),
        "count": torch.tensor(7),
        "module": torch.nn.Linear(3, 2).state_dict(),
        "sparse": base.to_sparse(),
        "complex": base.to(torch.complex64),
    }
    for protocol in (2, 4, 5):
        torch.save(contents, path, pickle_protocol=protocol)
        with TorchFile(path) as file:
            for name in ("transposed", "slice", "parameter", "shared", "half", "count"):
                found = file.read(file.contents[name]).astype(np.float32)
                np.testing.assert_array_equal(found, contents[name].detach().float().numpy())
            assert isinstance(file.contents["module"]["weight"], StoredTensor)
            assert isinstance(file.contents["sparse"], Inert)
            assert isinstance(file.contents["complex"], Inert)


def test_a_training_checkpoint_is_read_as_data(reference: Callable[[str], Path]) -> None:
    with TorchFile(reference("golden/mmengine_tiny.pth")) as file:
        assert file.contents["meta"]["epoch"] == 12
        assert len(file.contents["state_dict"]) == 757
        history = file.contents["message_hub"]["log_scalars"]["train/loss"]
        assert history == Inert("an object of mmengine.logging.history_buffer.HistoryBuffer")


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "empty; download or save it again"),
        (b"\n <!DOCTYPE html><html>", "an HTML page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "legacy format (before 1.6)"),
        (bytes(257) + b"ustar", "legacy format (before 1.6)"),
        (struct.pack("<Q", 30) + b'{"a":{}}', "a safetensors file"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\0", "a compressed file"),
        (b"\x80\x04\x95\0\0", "a bare pickle"),
        (b"\x89HDF\r\n\x1a\n", "not a PyTorch file: it starts with b'\\x89HDF"),
        (b"PK\3\4 and then nothing", "truncated or damaged"),
        (zip_bytes({"a/b": b""}), "not PyTorch's (no data.pkl)"),
        (zip_bytes({"a.npy": b""}), "a NumPy .npz file"),
        (zip_bytes({"a/data.pkl": bytes(99)}, zipfile.ZIP_DEFLATED), "re-zipped"),
        (zip_bytes({"a/data.pkl": b"N.", "a/byteorder": b"big"}), "wrong-endian"),
        (zip_bytes({"a/data.pkl": b"N", "a/byteorder": b"little"}), "damaged: its data.pkl is not"),
    ],
)
def test_each_kind_of_file_is_told_for_what_it_is(path: Path, head: bytes, words: str) -> None:
    path.write_bytes(head)
    assert words in refusal(path)


def test_truncated_files_are_refused(path: Path) -> None:
    write_torch_file(path, arrays())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "truncated or damaged" in refusal(path)


def test_encrypted_files_are_refused(path: Path) -> None:
    data = bytearray(around(state_dict(tensor())))
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    assert "encrypted" in refusal(path)


def test_directories_and_missing_files_are_refused(tmp_path: Path) -> None:
    assert "a directory, expected a file; give the path of a .pth" in refusal(tmp_path)
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "data.pkl").touch()
    assert "an unpacked .pth" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "nothing.pth")


def test_a_flipped_bit_is_noticed(path: Path) -> None:
    write_torch_file(path, {"a": np.arange(4096, dtype=np.float32)})
    data = bytearray(path.read_bytes())
    data[data.index(np.arange(99, 103, dtype=np.float32).tobytes())] ^= 1
    path.write_bytes(data)
    with TorchFile(path) as file, pytest.raises(CheckpointError, match="CRC"):
        file.read(file.contents["a"])


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (tensor((2**40,), (0,)), "claims more than its storage's 12 elements"),
        (tensor((12,), (1,), 1), "claims more than its storage's 12 elements"),
        (tensor((3, 4), (4,)), "a tensor has 2 axes"),
        (tensor((2,), (-1,)), "is not a size"),
        (tensor(storage=b"N"), "without storage, shape or stride"),
    ],
)
def test_tensors_at_odds_with_their_storage_are_refused(
    path: Path, entry: bytes, words: str
) -> None:
    path.write_bytes(around(state_dict(entry)))
    assert words in refusal(path)


def test_tensors_may_not_claim_many_times_the_file(path: Path) -> None:
    storage = storage_id(numel=12_000)
    views = tensor((12_000,), (1,), storage=b"h\x00") * 2
    for times, fits in ((1, True), (9, False)):
        pickled = b"\x80\x02](" + storage + b"q\x00" + views * times + b"e."
        path.write_bytes(around(pickled, bytes(48_000)))
        if fits:
            TorchFile(path).close()
    assert "claim several times the file" in refusal(path)


def test_unknown_calls_are_inert() -> None:
    pickled = b"\x80\x02](cos\nsystem\n" + text("x") + b"\x85R(" + text("x") + b"ios\npopen\ne."
    assert loads(pickled, {}, lambda identity: identity) == [
        Inert("an object of os.system"),
        Inert("an object of os.popen"),
    ]
    assert loads(b"cos\nsystem\n.", {}, lambda identity: identity) == Global("os.system")


def test_opcodes_are_bounded() -> None:
    with pytest.raises(ValueError, match="more than 1,000,000 opcodes"):
        loads(b"N0" * MAX_OPCODES + b"N.", {}, lambda identity: identity)


def test_long_integers_are_not_kept() -> None:
    assert loads(integer(2**63) + b".", {}, lambda identity: identity) == 2**63
    assert loads(integer(2**999) + b".", {}, lambda identity: identity) == Inert("a long integer")


def test_a_failed_write_leaves_what_was_there(path: Path) -> None:
    write_torch_file(path, {"a": np.zeros(3, np.float32)})
    before = path.read_bytes()
    with pytest.raises(TypeError, match="complex64"):
        write_torch_file(path, {"a": np.zeros(3, np.complex64)})
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_torch_file(path / "under-a-file.pth", {})
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["x.pth"]
