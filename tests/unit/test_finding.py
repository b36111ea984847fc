"""Finding the application from the command line's point of view."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastq.exceptions import ImproperlyConfigured
from fastq.finding import find_app, nearest_pyproject

APP = "from fastq import FastQ\n{name} = FastQ('{main}', set_as_current=False)\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory in which commands run; modules imported from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(path: Path, text: str = "", *, name: str = "app", main: str = "m") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text or APP.format(name=name, main=main))


def found(spec: str | None = None) -> str | None:
    return find_app(spec).main


@pytest.mark.parametrize(
    ("spec", "file", "name"),
    [
        ("zfa_mod", "zfa_mod.py", "app"),
        ("zfa_mod", "zfa_mod.py", "anything"),
        ("zfa_mod:other", "zfa_mod.py", "other"),
        ("zfa_mod.other", "zfa_mod.py", "other"),
        ("zfa_mod.py", "zfa_mod.py", "app"),
        ("zfa_pkg", "zfa_pkg/__init__.py", "app"),
        ("zfa_pkg", "zfa_pkg/fastq.py", "app"),
        ("zfa_pkg", "zfa_pkg/celery.py", "celery"),
        ("zfa_pkg", "zfa_pkg/app.py", "x"),
        ("zfa_pkg.sub", "zfa_pkg/sub.py", "x"),
        ("zfa_pkg.sub:x", "zfa_pkg/sub.py", "x"),
        ("zfa_pkg.sub.x", "zfa_pkg/sub.py", "x"),
        ("zfa_pkg:sub.x", "zfa_pkg/__init__.py", "import"),
    ],
)
def test_what_is_given_is_found(place: Path, spec: str, file: str, name: str) -> None:
    if file.startswith("zfa_pkg"):
        write(place / "zfa_pkg" / "__init__.py", "# empty\n")
    if name == "import":
        write(place / "zfa_pkg" / "sub.py", name="x", main="here")
        write(place / "zfa_pkg" / "__init__.py", "from zfa_pkg import sub\n")
    else:
        write(place / file, name=name, main="here")
    assert found(spec) == "here"


def test_each_way_of_saying_wins_over_the_next(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("zfb_given", "zfb_environment", "zfb_project"):
        write(place / f"{name}.py", main=name)
    write(place / "tasks.py", main="tasks")
    assert found() == "tasks"
    (place / "pyproject.toml").write_text("[tool.fastq]\napp = 'zfb_project:app'\n")
    assert found() == "zfb_project"
    monkeypatch.setenv("FASTQ_APP", "zfb_environment")
    assert found() == "zfb_environment"
    assert found("zfb_given") == "zfb_given"


def test_the_project_file_is_found_upwards_and_its_directory_is_searched(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place / "zfc_project.py", main="above")
    (place / "pyproject.toml").write_text("[tool.fastq]\napp = 'zfc_project'\n")
    deep = place / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert nearest_pyproject(str(deep)) == str(place / "pyproject.toml")
    assert found() == "above"


@pytest.mark.parametrize(
    "file", ["tasks.py", "app.py", "fastq_app.py", "tasks/__init__.py", "zfd_package/__init__.py", "zfd_package/celery.py"]
)
def test_the_one_application_in_the_working_directory_is_found(place: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tasks", "app", "fastq_app"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    if file.startswith("zfd_package"):
        write(place / "zfd_package" / "__init__.py", "# empty\n")
    write(place / file, name="whatever", main="alone")
    assert found() == "alone"


def test_two_applications_are_both_named(place: Path) -> None:
    write(place / "tasks.py", main="one")
    write(place / "app.py", main="two")
    with pytest.raises(ImproperlyConfigured, match=r"Found 2 FastQ applications in .*: tasks:app, app:app. Choose one with -A"):
        find_app()
    write(place / "zfe_two.py", APP.format(name="a", main="1") + APP.format(name="b", main="2"))
    with pytest.raises(
        ImproperlyConfigured, match=r"There are 2 FastQ applications in zfe_two .*: choose one of zfe_two:a, zfe_two:b"
    ):
        find_app("zfe_two")
    assert found("zfe_two:b") == "2"


def test_one_application_seen_in_two_modules_is_one(place: Path) -> None:
    write(place / "tasks.py", main="one")
    write(place / "app.py", "from tasks import app\n")
    assert found() == "one"


def test_no_application_says_where_it_looked(place: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"No FastQ application found in .*no tasks.py, app.py.*Say where it is: -A"):
        find_app()
    write(place / "tasks.py", "from fastq import current_app\n")
    with pytest.raises(ImproperlyConfigured, match="looked into tasks"):
        find_app()
    with pytest.raises(ImproperlyConfigured, match=r"There is no FastQ application in tasks .-A tasks."):
        find_app("tasks")


@pytest.mark.parametrize("spec", ["zff_nothing", "zff_nothing:app", "zff_nothing.app", "zff_pkg.nothing:app", ".", ":app", "a..b"])
def test_a_module_that_is_not_there_is_named(place: Path, spec: str) -> None:
    write(place / "zff_pkg" / "__init__.py", "# empty\n")
    with pytest.raises(ImproperlyConfigured, match=r"There is no module .*Looked in"):
        find_app(spec)


def test_an_attribute_that_is_not_there_is_named(place: Path) -> None:
    write(place / "zfg_mod.py", name="real")
    with pytest.raises(ImproperlyConfigured, match=r"zfg_mod has no attribute 'fake' .* There is zfg_mod:real"):
        find_app("zfg_mod:fake")
    with pytest.raises(ImproperlyConfigured, match="zfg_mod:FastQ is type, expected a FastQ application"):
        find_app("zfg_mod:FastQ")


def test_an_error_inside_a_module_is_shown_as_it_is(place: Path) -> None:
    write(place / "zfh_missing.py", "import no_such_library_here\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_library_here"):
        find_app("zfh_missing")
    with pytest.raises(ModuleNotFoundError, match="no_such_library_here"):
        find_app("zfh_missing:app")
    write(place / "zfh_syntax.py", "def (\n")
    with pytest.raises(SyntaxError):
        find_app("zfh_syntax")
    write(place / "zfh_pkg" / "__init__.py", "1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        find_app("zfh_pkg.sub")


def test_a_project_file_that_cannot_be_read_is_named(place: Path) -> None:
    (place / "pyproject.toml").write_text("[tool.fastq\n")
    with pytest.raises(ImproperlyConfigured, match=r"pyproject.toml cannot be read"):
        find_app()
    (place / "pyproject.toml").write_text("[tool.fastq]\napp = 3\n")
    with pytest.raises(ImproperlyConfigured, match="is 3: expected text such as"):
        find_app()
