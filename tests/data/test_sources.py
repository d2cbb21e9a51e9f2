"""Sources: the same records whatever is on disk, and mistakes reported in one line."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from squeezetime_jax.data import lists, prepare, records, sources
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
    assert lists.read_list(file) == (
        [
            ("brush_hair/A b!_c.avi", 3),
            ("x.mp4", 0),
            ("tab.mp4", 12),
            ("a, b.mp4", 7),
            ("c.mp4", 8),
        ],
        [],
    )


@pytest.mark.parametrize(
    ("text", "videos", "names"),
    [
        ("a.mp4,1\nb, c.mp4,0\n", [("a.mp4", 1), ("b, c.mp4", 0)], []),
        ("path,label\na.mp4,walk\nb.mp4,run\n", [("a.mp4", 1), ("b.mp4", 0)], ["run", "walk"]),
        ('label,seconds,video\n"walk, slowly",3,a.mp4\n', [("a.mp4", 0)], ["walk, slowly"]),
        ("34870;Drumming Fingers\n100;No gesture\n", [("34870", 0), ("100", 1)],
         ["Drumming Fingers", "No gesture"]),
    ],
)  # fmt: skip
def test_a_csv_file_may_name_its_classes_and_columns(tmp_path, text, videos, names):
    (tmp_path / "list.csv").write_text(text)
    assert lists.read_list(tmp_path / "list.csv") == (videos, names)


@pytest.mark.parametrize("line", ["b.mp4", "b.mp4,", ",walk"])
def test_a_bad_line_of_a_csv_file_is_named(tmp_path, line):
    (tmp_path / "list.csv").write_text(f"a.mp4,walk\n{line}\n")
    with pytest.raises(UserError, match=r"list\.csv, line 2: expected `path,label`, got '"):
        lists.read_list(tmp_path / "list.csv")


def test_a_class_that_a_label_map_has_twice_is_named(tmp_path):
    (tmp_path / "map.txt").write_text("walk\nrun\nwalk\n")
    with pytest.raises(UserError, match=r"map\.txt, line 3: 'walk' is in line 1 too"):
        lists.read_class_names(tmp_path / "map.txt")


@pytest.mark.parametrize("line", ["no_label.mp4", "x.mp4 -1", "x.mp4 one", "x.mp4,one", ",3", "3"])
def test_a_bad_line_is_named(tmp_path, line):
    file = tmp_path / "list.txt"
    file.write_text(f"x.mp4 0\n{line}\n")
    with pytest.raises(UserError, match=r"list\.txt, line 2: expected `path label`"):
        lists.read_list(file)


def test_a_byte_order_mark_is_no_part_of_a_path(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfx.mp4 0\r\ny.mp4 1\r\n")
    assert lists.read_list(tmp_path / "list.txt") == ([("x.mp4", 0), ("y.mp4", 1)], [])


def test_an_empty_or_missing_list_is_named(tmp_path):
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(UserError, match=r"list\.txt: empty"):
        lists.read_list(tmp_path / "list.txt")
    with pytest.raises(UserError, match=r"none\.txt: cannot be read: No such file"):
        lists.read_list(tmp_path / "none.txt")


def test_other_bytes_than_text_are_named(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"list\.txt: expected a text file in UTF-8"):
        lists.read_list(tmp_path / "list.txt")


def test_published_lists_are_read(reference):
    folder = reference("annotations")
    pairs, _ = lists.read_list(folder / "hmdb51" / "hmdb51_train_split_1_videos.txt")
    names = lists.read_class_names(folder / "hmdb51" / "label_map.txt")
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


def test_videos_in_subfolders_are_their_class_folders(folder, tmp_path):
    (tmp_path / "walk" / "monday").mkdir(parents=True)
    (tmp_path / "walk" / ".trash").mkdir()
    video = folder / "test/moving_up/00003.mp4"
    for place in ("a.mp4", "monday/b.mp4", ".trash/c.mp4"):
        shutil.copy(video, tmp_path / "walk" / place)
    source = sources.folder_per_class(tmp_path)
    assert source.videos == [("walk/a.mp4", 0), ("walk/monday/b.mp4", 0)]


@pytest.fixture
def frame_folders(tmp_path) -> Path:
    """Two videos of 11 frames in folders, of which the k-th has grey value 10 k."""
    for name in ("34870", "34871"):
        (tmp_path / "frames" / name).mkdir(parents=True)
        for number in range(1, 12):
            frame = np.full((24, 32, 3), 10 * number, np.uint8)
            content = records.encode_jpeg(frame)
            (tmp_path / "frames" / name / f"img_{number}.jpg").write_bytes(content)
    return tmp_path / "frames"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("jester.csv", "34870;Drumming\n34871;Swiping\n"),
        ("mmaction.txt", "34870 11 0\n34871 11 1\n"),
    ],
)
def test_folders_of_numbered_pictures_are_videos(frame_folders, name, text):
    (frame_folders.parent / name).write_text(text)
    source = sources.open_source(frame_folders.parent / name, root=frame_folders)
    assert [(record.name, record.label) for record in map(source.__getitem__, range(2))] == [
        ("34870", 0), ("34871", 1),
    ]  # fmt: skip
    with source[1].open() as video:
        assert video.num_frames == 11
        found = video.frames([0, 8, 9, 10])  # in the order of the numbers, not of the names
    assert np.abs(found.mean(axis=(1, 2, 3)) - [10, 90, 100, 110]).max() < 1


def test_folders_of_numbered_pictures_in_class_folders(frame_folders):
    source = sources.open_source(frame_folders.parent)
    assert source.videos == [("frames/34870", 0), ("frames/34871", 0)]
    (frame_folders / "34870" / "img_2.jpg").write_bytes(b"")
    with source[0].open() as video, pytest.raises(UserError, match="34870: frame 1 is not"):
        video.frames([1])
    for file in (frame_folders / "34871").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="frames/34871: no frame found in this folder"):
        source[1].open()


@pytest.mark.parametrize("form", ["video", "jpeg"])
def test_prepared_shards_hold_the_same_records(folder, tmp_path, form):
    files = sources.annotation_list(folder / "test.txt", folder, folder / "label_map.txt")
    job = prepare.Job(
        files.videos, folder, tmp_path / "shards", "test", form=form, class_names=NAMES
    )
    prepare.prepare(job, processes=1)
    source = sources.open_source(tmp_path / "shards", split="test")
    assert (len(source), source.num_classes, tuple(source.class_names)) == (8, 8, NAMES)
    other = source.with_classes([1, 0, *range(2, 8)], [NAMES[1], NAMES[0], *NAMES[2:]])
    other = pickle.loads(pickle.dumps(other))
    assert [other.class_names[other[i].label] for i in range(8)] == list(NAMES)
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
            r"high.txt: found label 8, but .*label_map.txt has 8 classes, labels 0 to 7",
        ),
        (
            lambda: sources.annotation_list(tmp_path / "high.txt", tmp_path / "no"),
            "no: folder not found",
        ),
        (lambda: sources.folder_per_class(tmp_path / "empty"), "no videos in its class folders"),
        (lambda: sources.folder_per_class(tmp_path / "no"), "no: folder not found"),
        (
            lambda: sources.folder_per_class(folder / "test", tmp_path / "map.txt"),
            r"test: 7 classes not in .*map.txt: 'circling_clockwise', .* and 2 more; expected",
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
