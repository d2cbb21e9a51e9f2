"""THUMOS14's own annotation files, where they are."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def thumos14(reference: Callable[[str], Path]) -> Path:
    return reference("annotations/thumos14")
