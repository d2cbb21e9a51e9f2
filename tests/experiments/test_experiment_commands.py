"""The commands of experiments/ that the pages and configs show are commands that it takes."""

import importlib
import re
import shlex
from pathlib import Path

import launch
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "configs").glob("*.py")),
]


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Script and words of each `python experiments/SCRIPT.py WORDS` of a page."""
    text = text.replace("\\\n", " ")
    found = re.findall(r"python experiments/(tables|launch|bench)\.py([^`\n]*)", text)
    return [(name, shlex.split(words.replace("...", ""), comments=True)) for name, words in found]


def is_accepted(script: str, words: list[str]) -> bool:
    parser = importlib.import_module(script).parser()
    before, after = launch.split(words)
    try:
        parser.parse_args(before)
    except SystemExit:
        return False
    return all(word.startswith("--config.") for word in after if script == "tables")


SHOWN = {page.name: commands(page.read_text()) for page in PAGES}


@pytest.mark.parametrize("page", [name for name, found in SHOWN.items() if found])
def test_every_command_of_a_page_is_accepted(page: str) -> None:
    for script, words in SHOWN[page]:
        words = ["local" if word == "WHERE" else word for word in words if word != "[options]"]
        assert is_accepted(script, words), shlex.join(words)


def test_commands_are_found_and_mistakes_seen() -> None:
    assert {"tables.md", "scaling.md", "ablation.py"} <= {name for name in SHOWN if SHOWN[name]}
    ((script, words),) = commands("python experiments/tables.py run 3 \\\n  --scail demo  # x\n")
    assert (script, words) == ("tables", ["run", "3", "--scail", "demo"])
    assert not is_accepted(script, words)
    assert not is_accepted("tables", ["run", "3", "--", "--conf.seed=1"])
