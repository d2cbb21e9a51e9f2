"""The golden numbers of the compared networks."""

import pytest
from peer_goldens import DATA, Goldens


@pytest.fixture(scope="session")
def goldens() -> Goldens:
    """The golden numbers of all networks."""
    return Goldens(DATA)
