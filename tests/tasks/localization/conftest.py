"""THUMOS14's own annotation files, unpacked."""

import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def thumos14(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("thumos14")
    with zipfile.ZipFile(Path(__file__).parent / "data" / "thumos14.zip") as archive:
        archive.extractall(folder)
    return folder
