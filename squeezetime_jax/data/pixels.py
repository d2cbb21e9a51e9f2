"""Decoded frame -> upright RGB of 8 bits: de-interlaced and tone-mapped where that is needed."""

import itertools
from fractions import Fraction

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from squeezetime_jax.data import transforms

# FFmpeg's numbers of the transfer functions of HDR: PQ (SMPTE ST 2084) and HLG (ARIB STD-B67).
_HDR = frozenset((16, 18))
# Each frame is filtered by itself, so that frame k has the same pixels however it is reached: the
# lines of the second field are interpolated from those of the first around them.
_DEINTERLACE = ("bwdif", "mode=send_frame:deint=all")
_TIME_BASE = Fraction(1, 25)  # the filters ask for one; a single frame's does not matter
_TONE_MAP = ("scale", "out_transfer=bt709:out_primaries=bt709:intent=perceptual")


class RgbConverter:
    """Keeps FFmpeg's converter between frames."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame, short_side: int | None) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels of a frame; transparency is dropped.

        Args:
          frame: of any pixel format that FFmpeg converts.
          short_side: resize to it by `transforms.resize_short_side`; None: no resizing.
        """
        turns = quarter_turns(frame)
        if frame.interlaced_frame:
            frame = _filtered(frame, *_DEINTERLACE)
        if frame.color_trc in _HDR:
            rgb = _filtered(frame, *_TONE_MAP, pixel_format="rgb24")
        else:
            rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
        image: np.ndarray = rgb.to_ndarray()
        if turns:
            image = np.ascontiguousarray(np.rot90(image, turns))
        return image if short_side is None else transforms.resize_short_side(image, short_side)


def quarter_turns(frame: VideoFrame) -> int:
    """Counter-clockwise quarter turns that make the frame stand upright."""
    return round(frame.rotation / 90) % 4


def _filtered(frame: VideoFrame, name: str, options: str, pixel_format: str = "") -> VideoFrame:
    """A frame after one of FFmpeg's filters, in the same format or another."""
    graph = Graph()
    graph.threads = 1
    nodes = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=_TIME_BASE
        ),
        graph.add(name, options),
        graph.add("format", f"pix_fmts={pixel_format or frame.format.name}"),
        graph.add("buffersink"),
    ]
    for before, after in itertools.pairwise(nodes):
        before.link_to(after)
    graph.configure()
    graph.push(frame)
    graph.push(None)  # bwdif waits for the next frame otherwise
    return graph.vpull()
