"""What is read and written of a JPEG's header: its size, and the time of a frame of a video."""

import struct
from collections.abc import Iterator

# A comment segment of our own: the magic word and the seconds, as a little-endian double.
_TIME = struct.Struct("<8sd")
_MAGIC = b"seconds="
_COMMENT = 0xFE


def num_pixels(data: bytes) -> int:
    """Height times width by the frame header; 0 where there is none."""
    for marker, content in _segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(content[1:3]) * int.from_bytes(content[3:5])
    return 0


def with_time(data: bytes, seconds: float) -> bytes:
    """A JPEG with the time at which it is shown, in a comment after its first two bytes."""
    content = _TIME.pack(_MAGIC, seconds)
    return data[:2] + bytes((0xFF, _COMMENT)) + (len(content) + 2).to_bytes(2) + content + data[2:]


def time_of(data: bytes) -> float | None:
    """The time that `with_time` wrote, in seconds; None if there is none."""
    for marker, content in _segments(data):
        if marker == _COMMENT and len(content) == _TIME.size:
            magic, seconds = _TIME.unpack(content)
            return seconds if magic == _MAGIC and seconds == seconds else None
        if marker != _COMMENT:
            return None
    return None


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, content) of each segment of the header."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        length = int.from_bytes(data[place + 2 : place + 4])
        yield data[place + 1], data[place + 4 : place + 2 + length]
        place += 2 + length
