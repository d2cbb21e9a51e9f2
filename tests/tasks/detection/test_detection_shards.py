"""Shards of the frames around annotated seconds, beside the frames in their folders."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from squeezetime_jax import cli
from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.detection.config import Data
from squeezetime_jax.tasks.detection.dataset import Split
from squeezetime_jax.tasks.detection.frames import ShardFrames, open_frames, write_shards

NUM_FRAMES = 4
SECONDS = (900, 902, 905, 909)  # the first, the last, and between


@pytest.fixture
def data(tmp_path: Path) -> Data:
    """Ten seconds at 5 frames a second; frame n is n times 4 grey levels bright."""
    folder = tmp_path / "frames" / "v1"
    folder.mkdir(parents=True)
    for number in range(1, 51):
        image = np.full((32, 40, 3), 4 * number, np.uint8)
        cv2.imwrite(str(folder / f"img_{number:05}.jpg"), image)
    table = tmp_path / "train.csv"
    rows = [f"v1,{second:04d},0.1,0.1,0.5,0.5,1,0" for second in SECONDS]
    table.write_text("\n".join(rows) + "\n")
    return Data(
        train=str(table),
        test=str(table),
        frames=str(tmp_path / "frames"),
        frame_interval=2,
        fps=5,
        start=900,
        end=910,
    )


def _prepare(data: Data, out: Path, split: str = "train", short_side: int = 360) -> None:
    opened = Split(data, split, 3, NUM_FRAMES)
    seconds, sampling = opened.key_frames.frames, opened.sampling
    write_shards(opened.frames, seconds, sampling, out, split, short_side, 1)


def test_shards_give_the_frames_of_the_folders(data: Data, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    _prepare(data, out)
    _prepare(data, out, "test")
    sampling = data.sampling(NUM_FRAMES)
    folders, shards = open_frames(data.frames, sampling), open_frames(out, sampling)
    assert isinstance(shards, ShardFrames)
    for second in SECONDS:
        for rng in (None, *map(np.random.default_rng, range(20))):
            numbers = sampling.numbers(second, rng)
            stored, direct = (each.read(("v1", second), numbers) for each in (shards, folders))
            assert stored.shape == direct.shape == (NUM_FRAMES, 32, 40, 3)
            # Twice through JPEG: a grey level or two.
            assert np.abs(stored.astype(int) - direct).max() <= 2
    with pytest.raises(UserError, match="no frames of v1,0901"):
        shards.read(("v1", 901), sampling.numbers(901))


def test_frames_far_apart_are_those_of_their_second(data: Data, tmp_path: Path) -> None:
    """Shifted by up to half of a long interval, a clip still belongs to its second."""
    data = dataclasses.replace(data, frame_interval=12)
    _prepare(data, tmp_path / "shards")
    sampling = data.sampling(NUM_FRAMES)
    shards = open_frames(tmp_path / "shards", sampling)
    for seed in range(20):
        numbers = sampling.numbers(905, np.random.default_rng(seed))
        means = shards.read(("v1", 905), numbers).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(means, 4 * numbers, atol=2)


def test_large_frames_are_shrunk(data: Data, tmp_path: Path) -> None:
    _prepare(data, tmp_path / "shards", short_side=16)
    sampling = data.sampling(NUM_FRAMES)
    shards = open_frames(tmp_path / "shards", sampling)
    assert shards.read(("v1", 902), sampling.numbers(902)).shape == (NUM_FRAMES, 16, 20, 3)


def test_shards_of_other_clips_are_refused(data: Data, tmp_path: Path) -> None:
    _prepare(data, tmp_path / "shards")
    with pytest.raises(UserError, match="with num_frames=4, but the config has num_frames=8"):
        open_frames(tmp_path / "shards", data.sampling(2 * NUM_FRAMES))
    (tmp_path / "shards" / "seconds.json").write_text("{")
    with pytest.raises(UserError, match=r"seconds\.json: damaged"):
        open_frames(tmp_path / "shards", data.sampling(NUM_FRAMES))


def test_the_command_lists_seconds_without_frames(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "frames" / "v1" / "img_00013.jpg").unlink()
    fields = {
        name: getattr(data, name)
        for name in ("train", "test", "frames", "frame_interval", "fps", "start", "end")
    }
    arguments = [f"--config.data.{name}={value}" for name, value in fields.items()]
    out = tmp_path / "shards"
    arguments += ["--config", "ava21", "--split", "train", "--out", str(out), "--workers", "1"]
    arguments += ["--config.model.num_frames=4", "--config.data.train_excluded="]
    status, (printed, errors) = cli.main(["ava-shards", *arguments]), capsys.readouterr()
    assert status == 1, errors
    assert "img_00013.jpg: cannot read the frame" in printed, errors
    assert "seconds: 3, " in printed
    sampling = data.sampling(NUM_FRAMES)
    shards = open_frames(out, sampling)
    numbers = sampling.numbers(909)  # behind the one that is missing
    means = shards.read(("v1", 909), numbers).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(means, 4 * numbers, atol=2)
