import pytest

from squeezetime_jax.data import annotations
from squeezetime_jax.errors import UserError


def test_the_label_is_the_last_field(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("brush_hair/A b!_c.avi 3\n\nx.mp4 0\ntab.mp4\t12\n")
    assert annotations.read_list(file) == [
        ("brush_hair/A b!_c.avi", 3),
        ("x.mp4", 0),
        ("tab.mp4", 12),
    ]


@pytest.mark.parametrize("line", ["no_label.mp4", "x.mp4 -1", "x.mp4 one"])
def test_a_bad_line_is_named(tmp_path, line):
    file = tmp_path / "list.txt"
    file.write_text(f"x.mp4 0\n{line}\n")
    with pytest.raises(UserError, match=r"list\.txt, line 2: found"):
        annotations.read_list(file)


def test_an_empty_or_missing_list_is_named(tmp_path):
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(UserError, match="names no video"):
        annotations.read_list(tmp_path / "list.txt")
    with pytest.raises(UserError, match=r"none\.txt: not readable"):
        annotations.read_list(tmp_path / "none.txt")


def test_published_lists_are_read(reference):
    folder = reference("annotations")
    pairs = annotations.read_list(folder / "hmdb51" / "hmdb51_train_split_1_videos.txt")
    names = annotations.read_class_names(folder / "hmdb51" / "label_map.txt")
    assert len(pairs) == 3570
    assert {label for _, label in pairs} == set(range(len(names))) == set(range(51))
