from pathlib import Path

import pytest

from squeezetime_jax.errors import UserError
from squeezetime_jax.tasks.localization.annotations import read_annotations, read_classes

VIDEOS, SEGMENTS = "val_video_info.csv", "val_Annotation_ours.csv"
CLASSES = "Class Index_Detection.txt"
INFO = "video,fps,sample_fps,count,sample_count\n"
INSTANCES = "video,type,type_idx,start,end,startFrame,endFrame\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Class Index_Detection.txt").write_text("7 Jump\n9 Long Throw\n")
    (tmp_path / "val_video_info.csv").write_text(INFO + "v1,30.0,10.0,900.0,300\n")
    (tmp_path / "val_Annotation_ours.csv").write_text(INSTANCES + "v1,Long Throw,9,1,2,30,60\n")
    return tmp_path


def test_the_splits_have_their_published_sizes(thumos14: Path) -> None:
    train, test = (read_annotations(thumos14, split) for split in ("val", "test"))
    assert (len(train.videos), train.num_instances) == (200, 3007)
    assert (len(test.videos), test.num_instances) == (212, 3358)
    assert sum(video.sample_count for video in train.videos.values()) == 417_746
    assert train.class_names[:3] == ("BaseballPitch", "BasketballDunk", "Billiards")
    first = train.instances["video_validation_0000051"][0]
    assert (first.class_id, first.seconds, first.frames) == (3, (67.5, 75.9), (2025, 2277))


def test_every_sample_count_follows_from_the_frame_rate(thumos14: Path) -> None:
    for split in ("val", "test"):
        for video in read_annotations(thumos14, split).videos.values():
            assert video.sample_count == int(video.count * 10 / video.fps)


def test_a_folder_of_this_form_is_read(folder: Path) -> None:
    found = read_annotations(folder, "val")
    assert found.instances["v1"][0].class_id == 2
    assert found.videos["v1"].sample_count == 300


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        (VIDEOS, "v2,x,10.0,9,3", "line 3, fps: expected a finite number of at least 10, got 'x'"),
        (VIDEOS, "v2,30,10.0,9", "line 3: expected 5 fields"),
        (
            VIDEOS,
            "v2,30,25,9,3",
            "line 3, sample_fps: expected a finite number in [10, 10], got '25'",
        ),
        (VIDEOS, "v2,5,10,9,3", "line 3, fps: expected a finite number of at least 10, got '5'"),
        (
            VIDEOS,
            "v2,30,10,9,30",
            "line 3, sample_count: expected a finite number in [1, 9], got '30'",
        ),
        (VIDEOS, "v1,30,10,9,3", "line 3: expected a bare name, each once, got 'v1'"),
        (VIDEOS, "../v,30,10,9,3", "line 3: expected a bare name, each once, got '../v'"),
        (SEGMENTS, "v9,Jump,7,1,2,3,4", "line 3: expected a video of the video table, got 'v9'"),
        (SEGMENTS, "v1,Jmp,7,1,2,3,4", "line 3: expected a name in Class"),
        (SEGMENTS, "v1,Jump,7,2,1,3,4", "line 3: expected start before end, got (2.0, 1.0)"),
        (
            SEGMENTS,
            "v1,Jump,7,1,2,4,4",
            "line 3: expected startFrame before endFrame, got (4.0, 4.0)",
        ),
        (
            SEGMENTS,
            "v1,Jump,7,1,inf,3,4",
            "line 3, end: expected a finite number of at least 0, got 'inf'",
        ),
        (
            SEGMENTS,
            "v1,Jump,7,1,nan,3,4",
            "line 3, end: expected a finite number of at least 0, got 'nan'",
        ),
        (CLASSES, "Jump", "line 3: expected `number name`, each name once, got 'Jump'"),
        (CLASSES, "8 Jump", "line 3: expected `number name`, each name once, got '8 Jump'"),
    ],
)
def test_a_wrong_line_is_named(folder: Path, file: str, line: str, message: str) -> None:
    with (folder / file).open("a") as text:
        text.write(line + "\n")
    with pytest.raises(UserError) as raised:
        read_annotations(folder, "val")
    assert f"{folder / file}, {message}" in str(raised.value)


def test_a_missing_or_empty_file_is_named(folder: Path) -> None:
    (folder / "val_video_info.csv").write_text("name,fps\n")
    with pytest.raises(
        UserError, match=r"info.csv, line 1: expected the header video,fps,.*, got 'name,fps'"
    ):
        read_annotations(folder, "val")
    (folder / "val_video_info.csv").unlink()
    with pytest.raises(UserError, match=r"val_video_info.csv: cannot be read"):
        read_annotations(folder, "val")
    (folder / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match=r"empty.txt: no class found"):
        read_classes(folder / "empty.txt")
