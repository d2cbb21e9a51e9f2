"""Sources: the same records whatever is on disk, and mistakes reported in one line."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from squeezetime_jax.data import prepare, sources
from squeezetime_jax.data.embedded import motion
from squeezetime_jax.errors import UserError

NAMES = motion.CLASSES


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return motion.write_motion_dataset(
        tmp_path_factory.mktemp("data") / "motion", num_train=10, num_test=8, size=32, num_frames=4
    )


def first_frame(record: sources.Record) -> np.ndarray:
    with record.open() as video:
        return video.frames([0])[0]


def test_the_label_is_the_last_field(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("brush_hair/A b!_c.avi 3\n\nx.mp4 0\ntab.mp4\t12\na, b.mp4,7\nc.mp4, 8\n")
    assert sources.read_list(file) == [
        ("brush_hair/A b!_c.avi", 3),
        ("x.mp4", 0),
        ("tab.mp4", 12),
        ("a, b.mp4", 7),
        ("c.mp4", 8),
    ]


@pytest.mark.parametrize("line", ["no_label.mp4", "x.mp4 -1", "x.mp4 one", "x.mp4,one", ",3", "3"])
def test_a_bad_line_is_named(tmp_path, line):
    file = tmp_path / "list.txt"
    file.write_text(f"x.mp4 0\n{line}\n")
    with pytest.raises(UserError, match=r"list\.txt, line 2: expected `path label`"):
        sources.read_list(file)


def test_a_byte_order_mark_is_no_part_of_a_path(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfx.mp4 0\r\ny.mp4 1\r\n")
    assert sources.read_list(tmp_path / "list.txt") == [("x.mp4", 0), ("y.mp4", 1)]


def test_an_empty_or_missing_list_is_named(tmp_path):
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(UserError, match=r"list\.txt: empty"):
        sources.read_list(tmp_path / "list.txt")
    with pytest.raises(UserError, match=r"none\.txt: cannot be read: No such file"):
        sources.read_list(tmp_path / "none.txt")


def test_other_bytes_than_text_are_named(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"list\.txt: expected a text file in UTF-8"):
        sources.read_list(tmp_path / "list.txt")


def test_published_lists_are_read(reference):
    folder = reference("annotations")
    pairs = sources.read_list(folder / "hmdb51" / "hmdb51_train_split_1_videos.txt")
    names = sources.read_class_names(folder / "hmdb51" / "label_map.txt")
    assert len(pairs) == 3570
    assert {label for _, label in pairs} == set(range(len(names))) == set(range(51))


def test_an_annotation_list(folder):
    source = sources.annotation_list(folder / "test.txt", folder, folder / "label_map.txt")
    assert (len(source), source.num_classes, tuple(source.class_names)) == (8, 8, NAMES)
    record = source[3]
    assert (record.name, record.label) == ("test/moving_up/00003.mp4", 3)
    assert record.video == folder / "test/moving_up/00003.mp4"
    assert first_frame(record).shape == (32, 32, 3)


def test_paths_hold_spaces_and_exclamation_marks(folder, tmp_path):
    (tmp_path / "my videos!").mkdir()
    shutil.copy(folder / "test/moving_up/00003.mp4", tmp_path / "my videos!" / "Oh no! 2 3.mp4")
    (tmp_path / "list.txt").write_text("\nmy videos!/Oh no! 2 3.mp4   7\n\n")
    record = sources.annotation_list(tmp_path / "list.txt", tmp_path)[0]
    assert (record.name, record.label) == ("my videos!/Oh no! 2 3.mp4", 7)
    assert first_frame(record).shape == (32, 32, 3)


def test_a_folder_per_class(folder):
    source = sources.folder_per_class(folder / "test")
    classes = sorted(name.replace(" ", "_") for name in NAMES)
    assert list(source.class_names) == classes
    assert [record.label for record in map(source.__getitem__, range(8))] == list(range(8))
    assert source[0].name == "circling_clockwise/00006.mp4"


def test_folders_without_videos_are_no_classes(folder, tmp_path):
    shutil.copytree(folder / "test", tmp_path / "test")
    for name in ("__MACOSX", ".cache", "moving_down"):
        (tmp_path / "test" / name).mkdir(exist_ok=True)
    shutil.copy(folder / "test/moving_up/00003.mp4", tmp_path / "test" / "__MACOSX" / "1.mp4")
    (tmp_path / "test/moving_down/00002.mp4").rename(tmp_path / "test/moving_down/notes.txt")
    (tmp_path / "test/moving_up/._00003.mp4").write_bytes(b"Mac OS X")
    source = sources.folder_per_class(tmp_path / "test")
    classes = sorted(name.replace(" ", "_") for name in NAMES if name != "moving down")
    assert list(source.class_names) == classes
    assert len(source) == 7


def test_a_label_map_orders_the_folders(folder, tmp_path):
    names = [name.replace(" ", "_") for name in NAMES] + ["standing"]
    (tmp_path / "map.txt").write_text("\n".join(names))
    source = sources.folder_per_class(folder / "test", tmp_path / "map.txt")
    assert (source.num_classes, len(source)) == (9, 8)
    assert {source[i].name: source[i].label for i in range(8)}["growing/00004.mp4"] == 4


@pytest.mark.parametrize("form", ["video", "jpeg"])
def test_prepared_shards_hold_the_same_records(folder, tmp_path, form):
    files = sources.annotation_list(folder / "test.txt", folder, folder / "label_map.txt")
    job = prepare.Job(
        files.videos, folder, tmp_path / "shards", "test", form=form, class_names=NAMES
    )
    prepare.prepare(job, processes=1)
    source = sources.open_source(tmp_path / "shards", split="test")
    assert (len(source), source.num_classes, tuple(source.class_names)) == (8, 8, NAMES)
    source = pickle.loads(pickle.dumps(source))
    for i in range(8):
        assert (source[i].name, source[i].label) == (files[i].name, files[i].label)
        difference = np.abs(first_frame(source[i]).astype(int) - first_frame(files[i]))
        assert difference.mean() < 9  # coded twice
    assert len(sources.open_source(tmp_path / "shards", split="test[:3]")) == 3
    with pytest.raises(UserError, match="split 'train' not found; it has test"):
        sources.open_source(tmp_path / "shards", split="train")
    with pytest.raises(UserError, match="a data set with splits; choose one"):
        sources.open_source(tmp_path / "shards")


def test_open_source_tells_the_kinds_apart(folder):
    assert len(sources.open_source(folder / "train.txt")) == 10
    assert len(sources.open_source(folder / "train.txt", root=folder)) == 10
    assert len(sources.open_source(folder / "train")) == 10
    with pytest.raises(
        UserError, match="nowhere: not found; expected an annotation list, a folder"
    ):
        sources.open_source(folder / "nowhere")


def test_a_folder_that_is_no_tfds_data_set(tmp_path):
    (tmp_path / "dataset_info.json").write_text("{broken")
    with pytest.raises(UserError, match="TFDS cannot open this data set: "):
        sources.open_source(tmp_path, split="train")


def test_mistakes_are_reported_in_one_line(folder, tmp_path):
    (tmp_path / "bad.txt").write_text("a.mp4 0\nb.mp4 many\n")
    (tmp_path / "high.txt").write_text("a.mp4 0\nb.mp4 8\n")
    (tmp_path / "map.txt").write_text("growing\n")
    (tmp_path / "empty" / "class").mkdir(parents=True)
    cases = [
        (
            lambda: sources.annotation_list(tmp_path / "bad.txt", folder),
            r"bad.txt, line 2: expected",
        ),
        (
            lambda: sources.annotation_list(
                tmp_path / "high.txt", folder, folder / "label_map.txt"
            ),
            r"'b.mp4' has label 8, but .*label_map.txt has 8 names, for labels 0 to 7",
        ),
        (
            lambda: sources.annotation_list(tmp_path / "high.txt", tmp_path / "no"),
            "no: folder not found",
        ),
        (lambda: sources.folder_per_class(tmp_path / "empty"), "no videos in its class folders"),
        (lambda: sources.folder_per_class(tmp_path / "no"), "no: folder not found"),
        (
            lambda: sources.folder_per_class(folder / "test", tmp_path / "map.txt"),
            r"folder 'circling_clockwise' and 6 more not in .*map.txt;",
        ),
    ]
    for call, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_record_that_is_no_video_names_itself(tmp_path):
    (tmp_path / "list.txt").write_text("gone.mp4 0\n")
    record = sources.annotation_list(tmp_path / "list.txt", tmp_path)[0]
    with pytest.raises(UserError, match="gone"):
        first_frame(record)
