"""What every test shares."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of numbers from the authors' own code; skips where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "golden"
    folder = Path(os.environ.get("SQUEEZETIME_GOLDEN", default))
    if not folder.is_dir():
        pytest.skip(f"no golden folder at {folder}; set SQUEEZETIME_GOLDEN")
    return folder
