"""`squeezetime doctor`."""

import importlib.util

import pytest

from squeezetime_jax import cli
from squeezetime_jax.bench import doctor
from squeezetime_jax.export import FORMATS, formats


def test_doctor_finds_no_problem_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("jax 0.", "cpu:0", "h264", "compiled programs", "matplotlib"):
        assert word in out
    assert out.splitlines()[-1] == "no problem found"


def test_doctor_names_problems(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(doctor._NEEDED, "no_such_module", "everything")
    monkeypatch.setitem(doctor._OPTIONAL, "no_such_extra", ("something", "pip install it"))
    assert cli.main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("!")] == [
        "! no_such_module: everything; cannot be imported (No module named 'no_such_module')"
    ]
    assert "  no_such_extra: something; not installed: pip install it" in lines
    assert lines[-1] == "the lines that begin with ! are problems"


def test_formats_are_those_of_export(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    absent = {"openvino", "nncf"}
    present = {module for name in FORMATS for module in formats.get(name).packages} - absent
    specs = {**dict.fromkeys(absent), **dict.fromkeys(present, object())}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: specs[name] if name in specs else find(name)
    )
    lines = [line.strip() for line in doctor.examine()[0]]
    use = ", predict and bench with its files"
    assert f"export --format litert{use}" in lines
    cure = "pip install 'openvino>=2026.4,<2027' 'nncf>=3.4,<4'"
    assert f"export --format openvino{use}; not installed: {cure}" in lines
