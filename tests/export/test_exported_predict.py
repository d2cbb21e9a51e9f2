"""`squeezetime predict` by an exported network, beside the checkpoint's."""

import json
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from squeezetime_jax import SqueezeTime, SqueezeTimeConfig, cli
from squeezetime_jax.checkpoint.convert import to_torch_file
from squeezetime_jax.data.embedded import scenes
from squeezetime_jax.export.write import export

pytestmark = pytest.mark.needs("flatbuffers")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A checkpoint, what was exported of it, and a video."""
    folder = tmp_path_factory.mktemp("exported")
    model = SqueezeTime(SqueezeTimeConfig.tiny(), nnx.Rngs(0))
    model.eval()
    kernel = model.head.classifier.kernel
    kernel.set_value(100 * kernel[...])
    checkpoint, exported, video = (
        folder / name for name in ("tiny.pth", "tiny.stablehlo", "v.mp4")
    )
    to_torch_file(checkpoint, model)
    export(model, exported, format="stablehlo", height=32, width=32, frame_interval=2, fps=30.0)
    scenes.encode(video, np.random.default_rng(0).integers(0, 255, (12, 40, 56, 3), np.uint8))
    return checkpoint, exported, video


def predicted(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert cli.main(["predict", *words, "--json", "--views", "2x1", "--top", "8"]) == 0
    return json.loads(capsys.readouterr().out)


def test_scores_are_the_checkpoints(files: tuple, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, exported, video = map(str, files)
    size = ["--size", "32", "--frame-interval", "2"]
    expected = predicted(capsys, video, "--checkpoint", checkpoint, *size)
    found = predicted(capsys, video, "--checkpoint", exported)
    assert found["views"] == expected["views"] == 2
    assert [e["index"] for e in found["top"]] == [e["index"] for e in expected["top"]]
    scores = [[entry["score"] for entry in one["top"]] for one in (found, expected)]
    np.testing.assert_allclose(*scores, atol=1e-5)
    assert scores[0][0] - scores[0][-1] > 1e-3


def test_what_an_exported_network_cannot_do(
    files: tuple, capsys: pytest.CaptureFixture[str]
) -> None:
    _, exported, video = map(str, files)
    words = ["predict", video, "--checkpoint", exported]
    assert cli.main([*words, "--save", "picture.png"]) == 1
    assert "do not give; predict with the checkpoint" in capsys.readouterr().err
    assert cli.main([*words, "--size", "64"]) == 1
    assert "--size 64: the exported network takes 32 pixels only" in capsys.readouterr().err
