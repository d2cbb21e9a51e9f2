import pytest

from squeezetime_jax import SqueezeTimeConfig
from squeezetime_jax.model.counts import count

# Exact figures, counted on the released PyTorch model: backbone parameters, how many of them are
# position encodings, multiply-adds of the backbone at 224x224.
RELEASED = [
    ({}, 28_887_088, 221_872, 5_482_072_832),
    ({"width": 0.5}, 7_851_120, 221_872, 1_841_523_456),
    ({"width": 0.75}, 16_667_984, 221_872, 3_415_176_448),
    ({"width": 1.25}, 44_508_432, 221_872, 8_042_212_608),
    ({"num_frames": 4}, 28_829_488, 221_872, 4_759_538_432),
    ({"num_frames": 8}, 28_848_688, 221_872, 5_000_383_232),
    ({"num_frames": 32}, 28_963_888, 221_872, 6_445_452_032),
    ({"depth": 18}, 16_134_496, 139_552, 3_477_659_648),
    ({"depth": 34}, 30_990_576, 234_416, 6_035_292_672),
    ({"depth": 101}, 52_760_528, 275_184, 9_702_346_496),
]

NO_POSITION = {"branches": "ioi", "position_encoding": False}
# The paper's Tables 1 to 3, in millions and thousands of millions.
ABLATIONS = [
    ({"branches": "conv3x3"}, 23.6, 4.7),
    ({"branches": "tfc"}, 16.1, 3.1),
    ({}, 28.7, 5.5),
    ({"temporal_focus": False, **NO_POSITION}, 24.9, 5.3),
    (NO_POSITION, 27.4, 5.3),
    ({"branches": "tfc", "temporal_focus": False}, 13.5, 3.1),
]


@pytest.mark.parametrize(("changes", "backbone", "position", "multiply_adds"), RELEASED)
def test_released_networks_to_the_digit(
    changes: dict, backbone: int, position: int, multiply_adds: int
) -> None:
    counts = count(SqueezeTimeConfig(**changes))
    assert (counts.backbone, counts.position) == (backbone, position)
    assert counts.multiply_adds == multiply_adds


@pytest.mark.parametrize(("changes", "parameters", "multiply_adds"), ABLATIONS)
def test_ablations_to_the_papers_rounding(
    changes: dict, parameters: float, multiply_adds: float
) -> None:
    counts = count(SqueezeTimeConfig(**changes))
    assert round((counts.backbone - counts.position) / 1e6, 1) == parameters
    assert round(counts.multiply_adds / 1e9, 1) == multiply_adds


def test_no_reading_of_the_ioi_row_meets_the_papers_figure() -> None:
    # Table 1 says 27.5 M for the IOI branch alone; it is 27.4 M without and 27.6 M with its
    # position encodings. Its multiply-adds, 5.3 G, agree.
    counts = count(SqueezeTimeConfig(branches="ioi"))
    assert round((counts.backbone - counts.position) / 1e6, 1) == 27.4
    assert round(counts.backbone / 1e6, 1) == 27.6
    assert round(counts.multiply_adds / 1e9, 1) == 5.3


def test_multiply_adds_follow_the_input_size() -> None:
    full, half = (count(SqueezeTimeConfig.k400(), side, side) for side in (224, 112))
    assert half.backbone == full.backbone
    assert half.multiply_adds < 0.26 * full.multiply_adds
