"""The page of networks says what the register says."""

import re
from pathlib import Path

from squeezetime_jax.peers import registry

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"


def test_every_network_stands_on_the_page_with_its_figures() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (.*?) \| (\d+) \| .*? \| ([\d.]+) \| ([\d.]+) \| (\d+) x (\d+) x (\d+) \|",
        PAGE.read_text(),
        re.MULTILINE,
    )
    expected = []
    for entry in (entry for file in registry._FILES for entry in file.ENTRIES):
        figures = entry.published.parameters / 1e6, entry.published.multiply_adds / 1e9
        counts = [f"{figure:.2f}" for figure in figures]
        expected.append(
            (entry.name, entry.title, str(entry.year), *counts, *map(str, entry.published.clip))
        )
    assert rows == expected
