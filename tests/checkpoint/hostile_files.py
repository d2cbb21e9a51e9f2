"""Makes hostile and broken `.pth` files and watches the reader read them.

Run as a program (in a process of its own, since an audit hook cannot be removed): reads every file
under the hook and a limit on memory, and prints what happened as JSON.

    python tests/checkpoint/hostile_files.py SEED SHARE

SHARE, 0 to 1, is how many of the random files are read.
"""

import codecs
import collections
import io
import itertools
import json
import os
import pickletools
import random
import resource
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

Case = tuple[str, bytes]  # kind, the file's bytes


def zip_bytes(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def around(pickled: bytes, storage: bytes = bytes(48)) -> bytes:
    """A file whose pickle is the given one; two storages of 48 bytes lie beside it."""
    return zip_bytes({
        "a/data.pkl": pickled,
        "a/byteorder": b"little",
        "a/data/0": storage,
        "a/data/1": storage,
        "a/version": b"3\n",
    })  # fmt: skip


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def storage_id(key: str = "0", kind: str = "FloatStorage", numel: int = 12) -> bytes:
    return (
        b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu")
        + integer(numel) + b"tQ"
    )  # fmt: skip


def tensor(
    shape: tuple[int, ...] = (3, 4),
    stride: tuple[int, ...] = (4, 1),
    offset: int = 0,
    storage: bytes | None = None,
) -> bytes:
    sizes = b"(" + b"".join(map(integer, shape)) + b"t"
    strides = b"(" + b"".join(map(integer, stride)) + b"t"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + (storage_id() if storage is None else storage)
        + integer(offset) + sizes + strides + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


def state_dict(*entries: bytes) -> bytes:
    """A pickle of {"state_dict": OrderedDict(...)} with the entries under numbered names."""
    items = b"".join(text(f"layer1.0.w{i}") + entry for i, entry in enumerate(entries))
    return (
        b"\x80\x02}(" + text("state_dict") + b"ccollections\nOrderedDict\n)R(" + items + b"u"
        + text("meta") + b"}" + text("epoch") + b"K\x0csu."
    )  # fmt: skip


GOOD = around(state_dict(tensor(), tensor((), (), 5), tensor((2, 2), (1, 2), 3)))
CANARY = "the-canary-has-flown"
CALL = text(f"touch {CANARY}")


def calls() -> Iterator[bytes]:
    """Every way a pickle has of calling something, with a command as the argument."""
    for function in ("os\nsystem", "builtins\neval", "builtins\nexec", "subprocess\ngetoutput",
                     "posix\nsystem", "nt\nsystem", "__builtin__\neval", "runpy\n_run_code",
                     "numpy\nload", "torch\nload", "shutil\nrmtree", "importlib\nimport_module",
                     "pip\nmain", "antigravity\nx", "this\nx", "operator\nattrgetter"):  # fmt: skip
        name = b"c" + function.encode() + b"\n"
        module, attribute = function.split("\n")
        yield name + CALL + b"\x85R"
        yield text(module) + text(attribute) + b"\x93" + CALL + b"\x85R"
        yield b"(" + CALL + b"i" + function.encode() + b"\n"
        yield b"(" + name + CALL + b"o"
        yield name + CALL + b"\x85\x81"
        yield name + CALL + b"\x85}\x92"
        yield name + b")\x81" + CALL + b"b"
        yield name + b")R}" + text("__setstate__") + name + b"sb"
        yield b"c__builtin__\ngetattr\n" + name + text("__call__") + b"\x86R" + CALL + b"\x85R"
        yield b"ccopyreg\n_reconstructor\n" + name + b"cbuiltins\nobject\nN\x87R" + CALL + b"b"
        yield name + CALL + b"\x85RQ"
        yield b"P" + function.encode() + b"\n"
        yield b"ctorch._utils\n_rebuild_parameter\n" + name + CALL + b"\x85R\x85R"
        yield b"ctorch._utils\n_rebuild_tensor_v2\n" + name + CALL + b"\x85R\x85R"
        yield b"ccollections\nOrderedDict\n](]" + b"(" + name + CALL + b"\x85Reee\x85R"
        yield tensor() + name + b")Rb"
        for code in (b"\x82\x01", b"\x83\x01\x02", b"\x84\x01\x02\x03\x04"):
            yield code + CALL + b"\x85R"


def bombs() -> Iterator[bytes]:
    """Pickles that would take time or memory out of proportion to their size."""
    huge = struct.pack("<Q", 2**60)
    for opcode in (b"\x8e", b"\x8d", b"\x96"):  # BINBYTES8, BINUNICODE8, BYTEARRAY8
        yield opcode + huge + b"x"
        yield opcode + struct.pack("<Q", 2**64 - 1) + b"x"
    yield b"\x95" + huge + b"N"
    for opcode in (b"X", b"B", b"T", b"\x8b"):
        yield opcode + struct.pack("<I", 2**31 - 1) + b"x"
    yield b"N" + b"r" + struct.pack("<I", 2**32 - 1)
    yield b"Np99999999999999999999999999\n"
    yield b"Np-1\n"
    yield b"L" + b"9" * 200_000 + b"L\n"
    yield b"I" + b"9" * 200_000 + b"\n"
    yield b"\x8b" + struct.pack("<I", 200_000) + b"\x7f" * 200_000
    yield b")" + b"2\x86" * 60_000  # each tuple holds the last one twice
    yield b"}" + b")" + b"2\x86" * 200 + b"Ns"  # and such a tuple as a key
    yield b"N" + b"\x85" * 100_000
    yield b"](" * 50_000
    yield b"](" * 50_000 + b"e" * 50_000
    yield b"(" * 100_000
    yield b"]q\x00h\x00a"  # a list in itself
    yield b"}q\x00" + text("x") + b"h\x00s"
    yield b"}" + text("k" * 1_000_000) + b"q\x000" + (b"h\x00Ns") * 30_000
    yield (
        b"}"
        + b"\x8b"
        + struct.pack("<I", 500_000)
        + b"\x7f" * 500_000
        + b"q\x000"
        + (b"h\x00Ns" * 30_000)
    )
    yield b"}(" + b"".join(integer(i * (2**61 - 1)) + b"N" for i in range(-4, 5)) * 3_000 + b"u"
    yield b"".join(b"Np%d\n0" % (i * (2**61 - 1)) for i in range(30_000))
    yield b"]" + b"2a" * 50_000
    yield b"](" + b"N" * 20_000 + b"eq\x00" + (b"ccollections\nOrderedDict\nh\x00\x85R0" * 5_000)
    yield b"N" * 1_200_000
    yield (tensor() + b"0") * 4_000
    yield (
        storage_id()
        + b"q\x000"
        + tensor(storage=b"h\x00")
        + ((tensor(storage=b"h\x00") + b"0") * 2_000)
    )


def shapes() -> Iterator[bytes]:
    """Tensors that are at odds with their storage."""
    for shape, stride, offset in (
        ((2**40,), (0,), 0), ((2**40, 2**40), (0, 0), 0), ((13,), (1,), 0), ((12,), (1,), 1),
        ((3, 4), (5, 1), 0), ((2, 2), (-1, 1), 0), ((-1,), (1,), 0), ((12,), (1,), -1),
        ((12,), (1,), 2**62), ((2**62, 2**62), (1, 1), 0), ((1,) * 65, (1,) * 65, 0),
        ((3, 4), (4,), 0), ((0, 2**47), (1, 1), 0), ((2**200,), (1,), 0), ((13, 1), (0, 0), 0),
        ((2,), (2**47,), 0), ((0,), (1,), 2**47), ((12,), (2**63,), 0),
    ):  # fmt: skip
        yield tensor(shape, stride, offset)
    for kind in (
        "Float",
        "Double",
        "Half",
        "BFloat16",
        "Long",
        "Bool",
        "ComplexFloat",
        "QInt8",
        "",
    ):
        for numel in (12, 6, 24, 2**40, -12, 0):
            yield tensor(storage=storage_id("0", f"{kind}Storage", numel))
    for key in ("2", "", "../data.pkl", "/etc/passwd", "0\0", "0" * 5000, "..", "\n"):
        yield tensor(storage=storage_id(key))
    yield tensor(storage=b"N")
    yield tensor(storage=b"(tQ")
    yield tensor(storage=text("storage") + b"Q")
    yield tensor(storage=tensor())
    for wrong in (b"N", b"G@\x00\x00\x00\x00\x00\x00\x00", b"\x88", b"]", text("3")):
        yield b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage_id() + wrong + b"))t\x85R"
        yield (
            b"ctorch._utils\n_rebuild_tensor_v2\n("
            + storage_id()
            + b"K\x00("
            + wrong
            + b"t("
            + (wrong + b"ttR")
        )


def archives() -> Iterator[bytes]:
    """Zip archives that lie."""
    pickled = state_dict(tensor())
    yield zip_bytes({"a/data.pkl": pickled, "a/data/0": bytes(2**24)}, zipfile.ZIP_DEFLATED)
    yield zip_bytes({"a/data.pkl": bytes(2**24)}, zipfile.ZIP_DEFLATED)
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield zip_bytes({"a/data.pkl": pickled}, compression)
    yield zip_bytes({"a/data.pkl": pickled, "a/byteorder": b"big"})
    yield zip_bytes({"a/data.pkl": pickled, "a/byteorder": bytes(10**6)})
    yield zip_bytes({"a/data.pkl": pickled, "../../a": b"", "/etc/passwd": b"x"})
    yield zip_bytes({f"a/data/{i}": b"" for i in range(60_000)})
    yield zip_bytes({})
    yield zip_bytes({"a/b": b""})
    yield zip_bytes({"x.npy": b""})
    yield GOOD + GOOD
    yield bytes(100) + GOOD
    at = GOOD.index(b"PK\1\2")
    end = GOOD.index(b"PK\5\6")
    for offset, value in (
        (8, 1), (8, 0x41), (8, 0x20), (10, 8), (10, 99), (16, 0), (20, 2**32 - 1), (24, 2**32 - 1),
        (20, 2**31), (24, 2**31), (28, 65535), (30, 65535), (32, 65535), (42, 2**32 - 1), (42, 7),
    ):  # fmt: skip
        width = "<H" if offset in (8, 10, 28, 30, 32) else "<I"
        lie = bytearray(GOOD)
        struct.pack_into(width, lie, at + offset, value)
        yield bytes(lie)
    for offset, value in ((12, 2**32 - 1), (16, 2**32 - 1), (12, 0), (16, 0), (20, 65535)):
        lie = bytearray(GOOD)
        struct.pack_into("<H" if offset == 20 else "<I", lie, end + offset, value)
        yield bytes(lie)
    # Every entry of the directory points at the first one's bytes, many times over.
    entry = GOOD[at : at + 46 + struct.unpack_from("<H", GOOD, at + 28)[0]]
    for times in (2, 1000, 30_000):
        directory = entry * times
        yield (
            GOOD[:at]
            + directory
            + b"PK\5\6"
            + struct.pack("<HHHHIIH", 0, 0, times & 0xFFFF, times & 0xFFFF, len(directory), at, 0)
        )
    yield GOOD[:at] + b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, 2**62, 0) + (
        b"PK\6\7" + struct.pack("<IQI", 0, at, 1)
        + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    )  # fmt: skip


def other_files() -> Iterator[bytes]:
    """What else is found under the name of a checkpoint."""
    yield from (b"", b"\n", b"PK", b"PK\3\4", b"PK\5\6" + bytes(18), b"<!DOCTYPE html><html>")
    yield from (b"\xef\xbb\xbf  <html>", b"version https://git-lfs.github.com/spec/v1\n")
    yield b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
    yield bytes(257) + b"ustar" + bytes(300)
    yield struct.pack("<Q", 64) + b'{"a":{"dtype":"F32"}}' + bytes(64)
    yield from (b"\x1f\x8b\x08" + bytes(20), b"BZh9" + bytes(20), b"\xfd7zXZ\x00", b"\x89HDF\r\n")
    yield b"\x80\x02cos\nsystem\n" + CALL + b"\x85R."


def mutated(source: random.Random) -> bytes:
    """A good file with bits flipped, cut short, or a part of it written over."""
    data = bytearray(GOOD)
    match source.randrange(4):
        case 0:
            for _ in range(source.randint(1, 8)):
                data[source.randrange(len(data))] ^= 1 << source.randrange(8)
        case 1:
            del data[source.randrange(len(data)) :]
        case 2:
            start = source.randrange(len(data))
            data[start : start + source.randint(0, 9)] = source.randbytes(source.randint(0, 9))
        case _:
            start, to = source.randrange(len(data)), source.randrange(len(data))
            data[to : to + 30] = data[start : start + source.randint(1, 60)]
    return bytes(data)


def spliced(source: random.Random) -> bytes:
    """A good archive around a good pickle with opcodes deleted, repeated, moved or put in."""
    pickled = state_dict(tensor(), tensor((2,), (1,)), b"](" + text("x") + b"Nq\x05h\x05e")
    cuts = [position for _, _, position in pickletools.genops(pickled)] + [len(pickled)]
    parts = [pickled[a:b] for a, b in itertools.pairwise(cuts)]
    opcodes = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
    for _ in range(source.randint(1, 6)):
        at = source.randrange(len(parts))
        match source.randrange(4):
            case 0:
                del parts[at]
            case 1:
                parts.insert(at, source.choice(parts))
            case 2:
                parts.insert(at, source.choice(opcodes) + source.randbytes(source.randint(0, 4)))
            case _:
                parts[at] = source.choice(opcodes) + parts[at][1:]
        parts = parts or [b"."]
    return around(b"".join(parts))


def generated(source: random.Random) -> bytes:
    """A pickle of random opcodes with arguments in their form."""
    opcodes = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
    pieces = [text("a"), tensor(), storage_id(), b"K\x01", b"h\x00", b"q\x00", b"cos\nsystem\n"]
    picks = [
        source.choice(pieces) if source.random() < 0.4 else source.choice(opcodes)
        for _ in range(source.randint(1, 40))
    ]
    return around(b"\x80\x04" + b"".join(picks) + b".")


def all_cases(seed: int, share: float) -> Iterator[Case]:
    """Every file of the test, the same for the same seed and share."""
    source = random.Random(seed)
    yield "good", GOOD
    for pickled in calls():
        yield "call", around(b"\x80\x04" + pickled + b".")
        yield "call", around(state_dict(tensor(), pickled))
    for pickled in bombs():
        yield "bomb", around(b"\x80\x04" + pickled + b".")
        yield "bomb", around(b"\x80\x04" + pickled)
    for pickled in shapes():
        yield "shape", around(state_dict(pickled))
    yield from (("archive", data) for data in archives())
    yield from (("other", data) for data in other_files())
    makers: dict[str, tuple[Callable[[random.Random], bytes], int]] = {
        "mutated": (mutated, 900), "spliced": (spliced, 700), "generated": (generated, 400),
    }  # fmt: skip
    for kind, (maker, count) in makers.items():
        yield from ((kind, maker(source)) for _ in range(round(share * count)))


MEMORY = 256 * 2**20  # bytes that reading may take at most, above what Python and JAX have
FORBIDDEN = ("import", "exec", "compile", "os.", "subprocess.", "pickle.", "marshal.", "shutil.")


def main(seed: int, share: float) -> None:
    """Read all cases; print counts, the outcome of each kind, and the memory taken."""
    from squeezetime_jax.checkpoint.archive import CheckpointError
    from squeezetime_jax.checkpoint.convert import from_torch_file
    from squeezetime_jax.checkpoint.torch_file import StoredTensor, TorchFile

    watching, seen = False, []

    def hook(event: str, args: tuple) -> None:
        if watching and (event.startswith(FORBIDDEN) or (event == "open" and args[0] != path)):
            seen.append(f"{event} {args}"[:200])

    def read(path: str) -> str:
        outcome = "refused"
        try:
            with TorchFile(path) as file:
                found = file.contents if isinstance(file.contents, dict) else {}
                weights = found.get("state_dict")
                for value in weights.values() if isinstance(weights, dict) else ():
                    if isinstance(value, StoredTensor):
                        np.add.reduce(file.read(value).ravel().view(np.uint8))
            outcome = "read"
            from_torch_file(path)
        except CheckpointError as error:
            message = str(error)
            assert message.startswith(path), message
            assert "\n" not in message, message
            assert len(message) < 600, message
        return outcome

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        path = str(Path(folder) / "x.pth")
        cases = list(all_cases(seed, share))
        for kind in ("good", "other", "archive", "mutated"):  # what is imported once, by Python
            Path(path).write_bytes(next(data for k, data in cases if k == kind))
            read(path)
        for encoding in ("cp437", "latin1", "ascii", "raw_unicode_escape", "unicode_escape"):
            codecs.lookup(encoding)
        sys.addaudithook(hook)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcomes: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
        for kind, data in cases:
            Path(path).write_bytes(data)
            watching = True
            outcome = read(path)
            watching = False
            outcomes[kind][outcome] += 1
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        left = sorted(os.listdir(folder))
    summary = {"files": len(cases), "outcomes": outcomes, "seen": seen, "left": left}
    print(json.dumps({**summary, "megabytes": (after - before) / 1024}))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
