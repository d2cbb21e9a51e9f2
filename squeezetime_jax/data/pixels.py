"""Decoded frame -> upright RGB of 8 bits: de-interlaced and tone-mapped where that is needed."""

import functools
import itertools
from fractions import Fraction

import cv2
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, UInt8

from squeezetime_jax.data import transforms

# FFmpeg's numbers of the transfer functions of HDR: PQ (SMPTE ST 2084) and HLG (ARIB STD-B67).
PQ, HLG = 16, 18
# Paper, and the brightest that is kept, in cd/m2 (ITU-R BT.2408).
_PAPER, _PEAK = 203.0, 1000.0
_KNEE = 0.3  # up to this, relative to paper, brightness is kept
# Linear BT.2020 -> BT.709 (ITU-R BT.2087).
_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_STEPS = 4096  # of the table of the tone curve, which is even in the root of the brightness


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
        turns, transfer = quarter_turns(frame), frame.color_trc
        if frame.interlaced_frame:
            frame = _deinterlaced(frame)
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
        image: np.ndarray = rgb.to_ndarray()
        if transfer in (PQ, HLG):
            image = tone_mapped(image, int(transfer))
        if turns:
            image = np.ascontiguousarray(np.rot90(image, turns))
        return image if short_side is None else transforms.resize_short_side(image, short_side)


def tone_mapped(codes: UInt8[np.ndarray, "h w 3"], transfer: int) -> UInt8[np.ndarray, "h w 3"]:
    """HDR as an SDR screen shows it: BT.709, up to 1000 cd/m2, paper at 68 % of full brightness.

    FFmpeg's own tone mapping (swscale's) takes seconds to set up for each size of frames.

    Args:
      codes: RGB of BT.2020, 0..255.
      transfer: `PQ` or `HLG`.
    """
    light = cv2.transform(cv2.LUT(codes, _light(transfer)), _TO_BT709)
    places = cv2.sqrt(np.clip(light, 0, _PEAK / _PAPER)) * ((_STEPS - 1) / (_PEAK / _PAPER) ** 0.5)
    return _tone_curve()[places.astype(np.int32)]


@functools.cache
def _light(transfer: int) -> Float[np.ndarray, " 256"]:
    """Brightness of each code, relative to paper."""
    code = np.arange(256) / 255
    if transfer == HLG:  # of a screen of 1000 cd/m2 (ITU-R BT.2100)
        scene = np.where(
            code <= 0.5, code**2 / 3, (np.exp((code - 0.55991) / 0.17883) + 0.28467) / 12
        )
        light = 1000 * scene**1.2
    else:
        root = code ** (32 / 2523)
        light = 1e4 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** 6.277395
    return (light / _PAPER).astype(np.float32)


@functools.cache
def _tone_curve() -> UInt8[np.ndarray, " steps"]:
    """BT.709's code of each brightness, by the "mobius" curve of FFmpeg's filter `tonemap`."""
    peak = _PEAK / _PAPER
    light = np.linspace(0, 1, _STEPS) ** 2 * peak
    a = -(_KNEE**2) * (peak - 1) / (_KNEE**2 - 2 * _KNEE + peak)
    b = (_KNEE**2 - 2 * _KNEE * peak + peak) / (peak - 1)
    rolled = (b + _KNEE) ** 2 / (b - a) * (light + a) / (light + b)
    shown = np.where(light <= _KNEE, light, rolled)
    code = np.where(shown < 0.018, 4.5 * shown, 1.099 * shown**0.45 - 0.099)
    return np.round(255 * code).astype(np.uint8)


def quarter_turns(frame: VideoFrame) -> int:
    """Counter-clockwise quarter turns that make the frame stand upright."""
    return round(frame.rotation / 90) % 4


def _deinterlaced(frame: VideoFrame) -> VideoFrame:
    """One field of a frame, its missing lines filled in.

    Each frame is filtered by itself, so that frame k has the same pixels however it is reached.
    """
    graph = Graph()
    graph.threads = 1
    unit = Fraction(1, 25)  # the filter asks for one; a single frame's does not matter
    nodes = [
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=unit
        ),
        graph.add("estdif", "mode=frame:deint=all"),
        graph.add("buffersink"),
    ]
    for before, after in itertools.pairwise(nodes):
        before.link_to(after)
    graph.configure()
    graph.push(frame)
    graph.push(None)  # otherwise it waits for the next frame
    return graph.vpull()
