import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
import videos

from squeezetime_jax import cli
from squeezetime_jax.data import prepare, records, sources, transforms, video, workers
from squeezetime_jax.errors import UserError

COUNTS = (20, 33, 1, 50, 18)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Five good videos of two classes, and two bad ones."""
    folder = tmp_path_factory.mktemp("videos")
    for number, count in enumerate(COUNTS):
        frames = videos.moving_frames(count, 48, 67, seed=number)
        (folder / f"{number} good.avi").write_bytes(videos.encode(frames, "avi", "mpeg4"))
    (folder / "text.mp4").write_text("404 not found")
    return folder


@pytest.fixture
def job(root, tmp_path):
    listed = [(f"{number} good.avi", number % 2) for number in range(len(COUNTS))]
    return prepare.Job(listed, root, tmp_path / "shards", "train", short_side=32, shard_size=2)


@pytest.fixture
def in_this_process(monkeypatch):
    """Do without other processes, whose start takes longer than the work."""

    def each(function, items, processes, **how):
        for item in items:
            try:
                yield item, function(item)
            except UserError as error:
                yield item, error

    monkeypatch.setattr(workers, "each", each)


def read_back(out, split="train"):
    return list(tfds.builder_from_directory(str(out)).as_data_source(split))


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("form", records.FORMS)
def test_shards_hold_the_videos_labels_and_names(job, form):
    job = prepare.dataclasses.replace(job, form=form)
    done = []
    report = prepare.prepare(job, 1, done.append)
    assert report.num_videos == sum(done) == len(COUNTS)
    assert report.bad == []
    examples = read_back(job.out)
    assert [e["name"].decode() for e in examples] == [name for name, _ in job.videos]
    assert [e["label"] for e in examples] == [label for _, label in job.videos]
    for example, count, (name, _) in zip(examples, COUNTS, job.videos, strict=True):
        with (
            records.open_record(example["video"], name) as stored,
            video.Video(job.root / name) as source,
        ):
            assert stored.num_frames == source.num_frames == count
            found = stored.frames(np.arange(count))
            expected = source.frames(np.arange(count), short_side=32)
        assert found.shape[1] == 32
        assert abs(found.shape[2] - expected.shape[2]) <= 1  # H.264 wants even sides
        expected = np.stack([transforms.resize(f, *found.shape[1:3]) for f in expected])
        assert np.abs(found.astype(int) - expected).mean() < 10


def test_shards_are_small_files_with_tfds_names(job):
    prepare.prepare(job, 1)
    names = {file.name for file in job.out.iterdir() if not file.name.startswith(".")}
    shards = {f"prepared-train.array_record-{n:05d}-of-00003" for n in range(3)}
    assert names == shards | {"dataset_info.json", "features.json"}


@pytest.mark.usefixtures("in_this_process")
def test_a_second_run_redoes_only_what_is_missing(job):
    prepare.prepare(job, 1)
    before = {n: job.shard(n).stat().st_mtime_ns for n in range(job.num_shards)}
    job.shard(1).unlink()
    done = []
    report = prepare.prepare(job, 1, done.append)
    assert done == [3, 1, 1]
    assert report.num_videos == len(COUNTS)
    after = {n: job.shard(n).stat().st_mtime_ns for n in range(job.num_shards)}
    assert {n for n in before if before[n] != after[n]} == {1}
    assert len(read_back(job.out)) == len(COUNTS)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_killed_run_leaves_whole_shards_and_is_resumed(root, tmp_path, request):
    for number in range(len(COUNTS)):
        shutil.copy(root / f"{number} good.avi", tmp_path)
    names = [f"{n % len(COUNTS)} good.avi 0" for n in range(64)] + ["last.avi 1", "0 good.avi 1"]
    (tmp_path / "train.txt").write_text("\n".join(names))
    os.mkfifo(tmp_path / "last.avi")  # a video that cannot be read to its end
    out = tmp_path / "shards"
    arguments = ["prepare", str(tmp_path / "train.txt"), "--out", str(out)]
    arguments += ["--short-side", "32", "--workers", "1"]
    running = subprocess.Popen(
        [sys.executable, "-m", "squeezetime_jax", *arguments],
        cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL,
    )  # fmt: skip
    first = out / "prepared-train.array_record-00000-of-00002"
    while not first.exists() and running.poll() is None:
        time.sleep(0.02)
    running.kill()
    assert running.wait() == -signal.SIGKILL
    assert list(out.glob("prepared-*")) == [first]
    assert not (out / "dataset_info.json").exists()
    stamp = first.stat().st_mtime_ns
    (tmp_path / "last.avi").unlink()
    shutil.copy(root / "1 good.avi", tmp_path / "last.avi")
    request.getfixturevalue("in_this_process")
    assert cli.main(arguments) == 0
    assert first.stat().st_mtime_ns == stamp
    assert [e["name"].decode() for e in read_back(out)][64:] == ["last.avi", "0 good.avi"]
    assert not list(out.glob(".prepared-*"))  # what the killed run had begun


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_video_that_hangs_its_decoder_is_left_out(job, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "_SECONDS", 2.0)
    os.mkfifo(tmp_path / "hangs.avi")
    shutil.copy(job.root / "0 good.avi", tmp_path)
    listed = [("hangs.avi", 0), ("0 good.avi", 1)]
    report = prepare.prepare(prepare.dataclasses.replace(job, videos=listed, root=tmp_path), 1)
    assert report.bad == [("hangs.avi", "not done after 2 seconds")]
    assert report.num_videos == 1


@pytest.mark.usefixtures("in_this_process")
def test_bad_videos_are_left_out_and_listed(job):
    listed = [("text.mp4", 0), *job.videos, ("none.mp4", 1)]
    report = prepare.prepare(prepare.dataclasses.replace(job, videos=listed), 1)
    assert [name for name, _ in report.bad] == ["text.mp4", "none.mp4"]
    assert report.bad[0][1].startswith("not readable as a video (")
    assert report.bad[1][1].startswith("no such file")
    assert report.num_videos == len(read_back(job.out)) == len(COUNTS)


@pytest.mark.usefixtures("in_this_process")
def test_no_good_video_is_an_error(job):
    listed = [("text.mp4", 0), ("none.mp4", 0)]
    with pytest.raises(UserError, match=r"none of the 2 videos can be read; text\.mp4: not read"):
        prepare.prepare(prepare.dataclasses.replace(job, videos=listed), 1)
    assert not (job.out / "dataset_info.json").exists()
    assert prepare.prepare(job, 1).num_videos == len(COUNTS)  # the corrected list


@pytest.mark.usefixtures("in_this_process")
def test_another_job_does_not_mix_in(job):
    prepare.prepare(job, 1)
    with pytest.raises(UserError, match="short_side was 32, is now 40; choose another --out or"):
        prepare.prepare(prepare.dataclasses.replace(job, short_side=40), 1)
    with pytest.raises(UserError, match="the list of videos has changed; choose another"):
        prepare.prepare(prepare.dataclasses.replace(job, videos=job.videos[1:]), 1)
    with pytest.raises(UserError, match="holds splits of form 'video', this one is 'jpeg'"):
        prepare.prepare(prepare.dataclasses.replace(job, split="val", form="jpeg"), 1)


@pytest.mark.usefixtures("in_this_process")
def test_splits_share_a_folder_and_its_classes(job):
    prepare.prepare(prepare.dataclasses.replace(job, videos=job.videos[:2]), 1)
    prepare.prepare(
        prepare.dataclasses.replace(job, videos=[(job.videos[4][0], 6)], split="val"), 1
    )
    info = tfds.builder_from_directory(str(job.out)).info
    assert {name: split.num_examples for name, split in info.splits.items()} == {
        "train": 2, "val": 1,
    }  # fmt: skip
    assert info.features["label"].num_classes == 7
    assert read_back(job.out, "val")[0]["label"] == 6


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("form", records.FORMS)
def test_folders_of_numbered_pictures_are_prepared(job, tmp_path, form):
    (tmp_path / "frames" / "34870").mkdir(parents=True)
    for number in range(20):
        frame = np.full((48, 64, 3), 10 * number, np.uint8)
        file = tmp_path / "frames" / "34870" / f"{number + 1:05d}.jpg"
        file.write_bytes(records.encode_jpeg(frame))
    listed = {"videos": [("34870", 0)], "root": tmp_path / "frames", "form": form}
    assert prepare.prepare(prepare.dataclasses.replace(job, **listed), 1).num_videos == 1
    with sources.open_source(job.out, split="train")[0].open() as stored:
        assert stored.num_frames == 20
        brightness = stored.frames(range(20)).mean(axis=(1, 2, 3))
    assert np.abs(brightness - 10 * np.arange(20)).max() < 6


@pytest.mark.usefixtures("in_this_process")
def test_splits_of_other_sizes_and_classes_do_not_share_a_folder(job):
    prepare.prepare(prepare.dataclasses.replace(job, class_names=("walk", "run")), 1)
    val = prepare.dataclasses.replace(job, split="val")
    with pytest.raises(UserError, match="split 'train' has frames of short side 32, this one 40"):
        prepare.prepare(prepare.dataclasses.replace(val, short_side=40), 1)
    more = [(job.videos[0][0], 2)]
    with pytest.raises(UserError, match="have 2 classes, but this one has label 2"):
        prepare.prepare(prepare.dataclasses.replace(val, videos=more), 1)


@pytest.mark.usefixtures("in_this_process")
def test_one_process_prepares_a_folder_at_a_time(job):
    def another(listed):
        with pytest.raises(UserError, match="shards: another process prepares videos into this"):
            prepare.prepare(prepare.dataclasses.replace(job, split="val"), 1)
        return b"stored"

    assert prepare.prepare(job, 1, encode=another).num_videos == len(COUNTS)
    assert prepare.prepare(job, 1).num_videos == len(COUNTS)  # it is free again


@pytest.mark.usefixtures("in_this_process")
def test_a_split_that_lacks_a_class_is_numbered_like_the_others(root, tmp_path):
    for place in ("train/run", "train/walk", "val/walk", "other/fly"):
        (tmp_path / place).mkdir(parents=True)
        shutil.copy(root / "0 good.avi", tmp_path / place)
    out = ["--out", str(tmp_path / "shards"), "--short-side", "32"]
    for split in ("train", "val"):
        assert cli.main(["prepare", str(tmp_path / split), *out]) == 0
    source = sources.open_source(tmp_path / "shards", split="val")
    assert source.class_names[source[0].label] == "walk"
    assert cli.main(["prepare", str(tmp_path / "other"), *out]) == 1


@pytest.mark.usefixtures("in_this_process")
def test_class_names_are_kept(job):
    prepare.prepare(prepare.dataclasses.replace(job, class_names=("walk", "run")), 1)
    features = tfds.builder_from_directory(str(job.out)).info.features
    assert features["label"].names == ["walk", "run"]
    val = prepare.dataclasses.replace(job, split="val")
    with pytest.raises(UserError, match="its other splits have other class names"):
        prepare.prepare(prepare.dataclasses.replace(val, class_names=("run", "walk")), 1)
    assert not val.shard(0).exists()
    prepare.prepare(val, 1)  # labels alone: the other split's names are theirs
    features = tfds.builder_from_directory(str(job.out)).info.features
    assert features["label"].names == ["walk", "run"]


def test_stored_video_needs_a_third_of_the_decoding(root):
    stored = records.encode(root / "3 good.avi", "video")
    with video.Video(stored) as opened:
        assert opened.info.codec == "h264"
        assert opened._index.keys.tolist() == [0, 32]
        decoded = opened._decode_packets(0, 32, {*opened._index.order[:32:4].tolist()})
        assert len(list(decoded)) <= 16


def test_small_videos_are_not_enlarged(root):
    with records.open_record(records.encode(root / "0 good.avi", "video", 256), "x") as stored:
        assert stored.frames([0]).shape == (1, 48, 66, 3)
    with records.open_record(records.encode(root / "0 good.avi", "jpeg", 256), "x") as stored:
        assert stored.frames([0]).shape == (1, 48, 67, 3)


@pytest.mark.usefixtures("in_this_process")
def test_the_command_lists_bad_videos_and_fails(root, tmp_path, capsys):
    (tmp_path / "val.txt").write_text("text.mp4 0\n0 good.avi 1\n")
    out = tmp_path / "shards"
    arguments = [str(tmp_path / "val.txt"), "--root", str(root), "--workers", "1"]
    assert cli.main(["prepare", *arguments, "--out", str(out), "--form", "jpeg"]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("text.mp4: not readable as a video")
    assert re.fullmatch(r"1 video, 0\.\d MB in .*; 1 video left out", printed.splitlines()[-1])
    assert len(read_back(out, "val")) == 1


def test_the_command_names_a_missing_list(tmp_path, capsys):
    arguments = ["--root", ".", "--out", str(tmp_path / "x")]
    assert cli.main(["prepare", str(tmp_path / "no.txt"), *arguments]) == 1
    assert "no.txt: not found; expected an annotation list" in capsys.readouterr().err
