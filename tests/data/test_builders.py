"""TFDS builders, on tiny folders with the layout of the downloads."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from squeezetime_jax.data import builders, sources
from squeezetime_jax.data.embedded import motion
from squeezetime_jax.errors import UserError


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Path]:
    folder = motion.write_motion_dataset(
        tmp_path_factory.mktemp("motion") / "motion", num_train=8, num_test=1, size=32, num_frames=2
    )
    return sorted(folder.glob("train/*/*.mp4"))


def lay(files: dict[str, Path | str], folder: Path) -> Path:
    """Write texts and copy videos to their places below a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copy(content, folder / name)
        else:
            (folder / name).write_text(content)
    return folder


def built(builder, manual: Path, **how) -> Path:
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(manual), **how)
    )
    return Path(builder.data_dir)


def labels(source: sources.ShardSource) -> dict[str, str]:
    """Name -> class name of every record."""
    records = [source[i] for i in range(len(source))]
    return {record.name: source.class_names[record.label] for record in records}


def kinetics(videos: list[Path], folder: Path) -> Path:
    head = "label,youtube_id,time_start,time_end,split\n"
    return lay(
        {
            "train.csv": head
            + "washing dishes,aaa,10,20,train\nabseiling,b-b,0.0,10.0,train\n"
            + "abseiling,gone,1,2,train\n",
            "val.csv": head + "washing dishes,ccc,5,15,validate\n",
            "train/aaa_000010_000020.mp4": videos[0],
            "train/abseiling/b-b.mp4": videos[1],
            "val/ccc_000005_000015.mp4": videos[2],
        },
        folder,
    )


def test_kinetics(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(builders.Kinetics400, "NUM_CLASSES", 2)
    manual = kinetics(videos, tmp_path / "manual")
    builder = builders.Kinetics400(data_dir=str(tmp_path / "data"))
    out = built(builder, manual)
    assert builder.name == "kinetics400"
    train, validation = (sources.open_source(out, split=s) for s in ("train", "validation"))
    assert labels(train) == {
        "train/aaa_000010_000020.mp4": "washing dishes",
        "train/abseiling/b-b.mp4": "abseiling",
    }
    assert labels(validation) == {"val/ccc_000005_000015.mp4": "washing dishes"}
    assert list(train.class_names) == ["abseiling", "washing dishes"]
    assert validation[0].video == videos[2].read_bytes()


@pytest.mark.slow
def test_another_storage_form_shows_the_same_video(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(builders.Kinetics600, "NUM_CLASSES", 2)
    manual = kinetics(videos, tmp_path / "manual")
    (manual / "train.csv").unlink()
    (manual / "val.csv").write_text(
        (manual / "val.csv").read_text() + "abseiling,ddd,5,15,validate\n"
    )
    builder = builders.Kinetics600(data_dir=str(tmp_path / "data"), config="jpeg256")
    out = built(builder, manual)
    assert builder.name == "kinetics600"
    record = sources.open_source(out, split="validation")[0]
    with record.open() as stored, sources.Record(videos[2], 0, "original").open() as original:
        difference = np.abs(stored.frames([1]).astype(int) - original.frames([1]))
    assert difference.mean() < 9  # coded twice


def test_a_bad_video_is_left_out(videos, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(builders.Kinetics400, "NUM_CLASSES", 2)
    manual = kinetics(videos, tmp_path / "manual")
    (manual / "train/aaa_000010_000020.mp4").write_bytes(b"moov atom not found")
    out = built(builders.Kinetics400(data_dir=str(tmp_path / "data")), manual)
    assert len(sources.open_source(out, split="train")) == 1
    assert "left out: train/aaa_000010_000020.mp4" in caplog.text


@pytest.mark.parametrize("split", [1, 2])
def test_hmdb51_has_its_three_splits(videos, tmp_path, monkeypatch, split):
    monkeypatch.setattr(builders.Hmdb51, "NUM_CLASSES", 2)
    manual = lay(
        {
            "videos/jump/One, two!.avi": videos[0],
            "videos/jump/b.avi": videos[1],
            "videos/brush_hair/c.avi": videos[2],
            "videos/brush_hair/d.avi": videos[3],
            "splits/jump_test_split1.txt": "One, two!.avi 1 \nb.avi 2 \n",
            "splits/brush_hair_test_split1.txt": "c.avi 1 \nd.avi 0 \n",
            "splits/jump_test_split2.txt": "One, two!.avi 2 \nb.avi 1 \n",
            "splits/brush_hair_test_split2.txt": "c.avi 0 \nd.avi 1 \n",
        },
        tmp_path / "manual",
    )
    names = [config.name for config in builders.Hmdb51.BUILDER_CONFIGS]
    assert {f"split{k}_original" for k in (1, 2, 3)} < set(names)
    builder = builders.Hmdb51(data_dir=str(tmp_path / "data"), config=f"split{split}_original")
    out = built(builder, manual)
    assert builder.name == "hmdb51"
    one, b, c, d = (
        "videos/jump/One, two!.avi", "videos/jump/b.avi",
        "videos/brush_hair/c.avi", "videos/brush_hair/d.avi",
    )  # fmt: skip
    expected = {1: ({one, c}, {b}), 2: ({b, d}, {one})}[split]
    for name, split_names in zip(("train", "test"), expected, strict=True):
        found = labels(sources.open_source(out, split=name))
        assert set(found) == split_names
        assert all(Path(path).parts[1] == label for path, label in found.items())


def test_something_something_takes_its_own_numbers(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(builders.SomethingSomethingV2, "NUM_CLASSES", 2)
    push, lift = "Pushing [something] off [something]", "Lifting [something]"
    entry = {"label": "pushing a cup off a table", "placeholders": ["a cup", "a table"]}
    manual = lay(
        {
            "labels/labels.json": json.dumps(
                {"Pushing something off something": "0", "Lifting something": "1"}
            ),
            "labels/train.json": json.dumps(
                [{"id": "7", "template": push} | entry, {"id": "8", "template": lift} | entry]
            ),
            "labels/validation.json": json.dumps([{"id": "9", "template": lift}]),
            "20bn-something-something-v2/7.webm": videos[0],
            "20bn-something-something-v2/8.webm": videos[1],
            "20bn-something-something-v2/9.webm": videos[2],
        },
        tmp_path / "manual",
    )
    builder = builders.SomethingSomethingV2(data_dir=str(tmp_path / "data"))
    train = sources.open_source(built(builder, manual), split="train")
    assert builder.name == "something_something_v2"
    assert list(train.class_names) == ["Pushing something off something", "Lifting something"]
    assert labels(train)["20bn-something-something-v2/8.webm"] == "Lifting something"


def test_incomplete_downloads_are_refused(videos, tmp_path, monkeypatch):
    manual = kinetics(videos, tmp_path / "manual")
    with pytest.raises(UserError, match="expected lists of 400 classes, got 2"):
        built(builders.Kinetics400(data_dir=str(tmp_path / "a")), manual)
    monkeypatch.setattr(builders.Kinetics400, "NUM_CLASSES", 2)
    shutil.rmtree(manual / "val")
    with pytest.raises(UserError, match="none of the 1 videos listed for validation found,"):
        built(builders.Kinetics400(data_dir=str(tmp_path / "b")), manual)


@pytest.mark.needs("apache_beam")
def test_beams_direct_runner_builds_the_same(videos, tmp_path, monkeypatch):
    import apache_beam as beam

    monkeypatch.setattr(builders.Kinetics400, "NUM_CLASSES", 2)
    manual = kinetics(videos, tmp_path / "manual")
    plain = built(builders.Kinetics400(data_dir=str(tmp_path / "plain")), manual)
    options = beam.options.pipeline_options.PipelineOptions(runner="DirectRunner")
    spread = built(
        builders.Kinetics400(data_dir=str(tmp_path / "beam"), beam=True),
        manual,
        beam_runner="DirectRunner",
        beam_options=options,
    )
    for split in ("train", "validation"):
        a, b = (sources.open_source(folder, split=split) for folder in (plain, spread))
        assert labels(a) == labels(b)
        videos_a, videos_b = ({s[i].name: s[i].video for i in range(len(s))} for s in (a, b))
        assert videos_a == videos_b
