"""What the pages promise: commands that the program takes, files that are there."""

import pkgutil
import re
import shlex
import tomllib
from pathlib import Path

import pytest

import squeezetime_jax
from squeezetime_jax import cli, command_line

assert cli.main is command_line.main  # importing `cli` registers the subcommands

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[str]:
    """Fenced blocks that hold shell commands: those marked `bash` and those not marked."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in fenced if language in ("", "bash")]


def commands(page: Path) -> list[list[str]]:
    """Each `squeezetime ...` of the page, as words."""
    lines = "\n".join(blocks(page)).replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in re.split(r"&&|[|<>]", line.split(" #")[0])]
    words = [shlex.split(part.replace("...", "")) for part in parts if "squeezetime " in part]
    return [w[w.index("squeezetime") + 1 :] for w in words if "squeezetime" in w]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one_that_the_program_takes(page: Path) -> None:
    for words in commands(page):
        try:
            command_line.parse(words)
        except SystemExit:
            pytest.fail(f"{page.name}: squeezetime {shlex.join(words)}")


def test_a_wrong_command_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("```\nsqueezetime convert a.pth b --alow x\n```\n")
    (words,) = commands(page)
    with pytest.raises(SystemExit):
        command_line.parse(words)
    assert "no option --alow; did you mean --allow?" in capsys.readouterr().err


def test_the_page_of_commands_has_each_once() -> None:
    shown = re.findall(
        r"python -m squeezetime_jax (\S+) --help", (ROOT / "docs/commands.md").read_text()
    )
    assert sorted(shown) == sorted(command_line.commands())


def test_the_site_has_every_page() -> None:
    site = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    listed = re.findall(r"'([\w-]+\.md)'", str(site))
    assert sorted(listed) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_the_reference_names_things_that_exist_and_all_of_the_package() -> None:
    names = re.findall(r"^::: (\S+)$", (ROOT / "docs/reference.md").read_text(), re.MULTILINE)
    found = [pkgutil.resolve_name(name) for name in names]
    assert {getattr(squeezetime_jax, name) for name in squeezetime_jax.__all__} <= set(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_command_names_is_there(page: Path) -> None:
    for name in re.findall(r"\b(?:configs|experiments|tests)/[\w/]+\.py\b", page.read_text()):
        assert (ROOT / name).exists(), name
