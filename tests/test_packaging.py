"""What an installation gets: every package, the configs, the class names."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_package_is_listed() -> None:
    folders = {file.parent for file in (ROOT / "squeezetime_jax").rglob("__init__.py")}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(SETUPTOOLS["packages"]) == found | {"squeezetime_jax.configs"}
    assert SETUPTOOLS["package-dir"]["squeezetime_jax.configs"] == "configs"


def test_every_file_of_data_is_packaged() -> None:
    patterns = SETUPTOOLS["package-data"]["*"]
    for file in (ROOT / "squeezetime_jax").rglob("*"):
        if file.is_file() and file.suffix not in (".py", ".pyc"):
            folder = next(f for f in file.parents if (f / "__init__.py").exists())
            assert any(file.relative_to(folder).match(pattern) for pattern in patterns), file
