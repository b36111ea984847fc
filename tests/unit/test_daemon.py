"""File names, pid files and users of long-running commands."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fastq.daemon.filenames import expand, per_process
from fastq.daemon.pidfile import PidFile, is_alive, read_pid
from fastq.daemon.privileges import become, set_umask
from fastq.exceptions import ImproperlyConfigured


@pytest.mark.parametrize(
    ("pattern", "index", "name"),
    [
        ("%n.pid", None, "w1.pid"),
        ("/run/%h/%n", None, "/run/web.example.org/w1"),
        ("%d-%p", None, "example.org-w1@web.example.org"),
        ("%n%I.log", None, "w1.log"),
        ("%n%I.log", 2, "w1-2.log"),
        ("%n.%i.log", None, "w1.0.log"),
        ("%n.%i.log", 2, "w1.2.log"),
        ("100%%.log", None, "100%.log"),
    ],
)
def test_a_file_name_is_expanded_as_celery_does(pattern: str, index: int | None, name: str) -> None:
    assert expand(pattern, "w1@web.example.org", index) == name


@pytest.mark.parametrize("pattern", ["%x.log", "50%", "% n"])
def test_a_percent_sign_that_stands_for_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="stands for nothing"):
        expand(pattern, "w1@host")


def test_a_file_for_each_process_is_known_as_such() -> None:
    assert per_process("%n%I.log") and per_process("%i")
    assert not per_process("%n.log") and not per_process("%%I.log")


def test_a_pid_file_is_there_while_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "w.pid"
    with PidFile(str(path)):
        assert read_pid(path) == os.getpid()
    assert not path.exists()


def test_a_pid_file_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "w.pid"
    path.write_text(f"{os.getppid()}\n")
    with pytest.raises(ImproperlyConfigured, match=f"names process {os.getppid()}, which is running"), PidFile(str(path)):
        pass
    assert path.read_text() == f"{os.getppid()}\n"


@pytest.mark.parametrize("left", ["", "gone"])
def test_a_pid_file_that_was_left_is_taken_over(left: str, tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = tmp_path / "w.pid"
    path.write_text(f"{ended.pid}\n" if left else "")
    os.utime(path, (1, 1))
    with PidFile(str(path)):
        assert read_pid(path) == os.getpid()


@pytest.mark.parametrize("text", ["hello", "12x", "-5", "\u0664\u0662"])
def test_a_file_that_is_no_pid_file_is_not_overwritten(text: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pid"
    path.write_text(text)
    with pytest.raises(ImproperlyConfigured, match="is no pid file"), PidFile(str(path)):
        pass
    assert path.read_text() == text


def test_a_pid_file_that_was_replaced_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "w.pid"
    with PidFile(str(path)):
        path.write_text(f"{os.getppid()}\n")
    assert path.exists()


def test_a_pid_file_where_nothing_can_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match="cannot be written"), PidFile(str(tmp_path / "no" / "w.pid")):
        pass


def test_a_pid_file_that_is_just_being_written_is_not_taken_from_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "w.pid"
    path.touch()
    writer = threading.Timer(0.2, lambda: path.write_text(f"{os.getppid()}\n"))
    writer.start()
    with pytest.raises(ImproperlyConfigured, match="which is running"), PidFile(str(path)):
        pass
    writer.join()
    assert path.read_text() == f"{os.getppid()}\n"


@pytest.mark.parametrize("left", ["", "1999999999\n"])
def test_of_many_that_start_at_once_one_gets_the_pid_file(left: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pid"
    if left:
        path.write_text(left)
    script = (
        "import sys\nfrom fastq.daemon.pidfile import PidFile\nfrom fastq.exceptions import ImproperlyConfigured\n"
        "try:\n    with PidFile(sys.argv[1]):\n        print('got', flush=True); sys.stdin.read()\n"
        "except ImproperlyConfigured:\n    print('refused', flush=True)\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    lines: list[str] = []
    readers = [threading.Thread(target=lambda p=p: lines.append(p.stdout.readline())) for p in started]  # type: ignore[misc]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    for process in started:
        process.communicate("", timeout=60)
    assert sorted(lines) == ["got\n", "refused\n", "refused\n", "refused\n"]
    assert not path.exists()


def test_a_process_that_has_ended_is_not_alive_even_if_nobody_has_waited_for_it() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read()  # the end of its output: it is about to end
    end = threading.Event()
    for _ in range(6000):
        if not is_alive(process.pid):
            break
        end.wait(0.01)
    assert not is_alive(process.pid)
    process.wait()
    process.stdout.close()
    assert is_alive(os.getpid())


def test_a_user_or_group_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ImproperlyConfigured, match="no user of that name"):
        become("nobody-of-that-name", None)
    with pytest.raises(ImproperlyConfigured, match="no group of that name"):
        become(None, "nobody-of-that-name")


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_root_becomes_the_user_and_group_and_cannot_go_back() -> None:
    script = (
        "import os\nfrom fastq.daemon.privileges import become\nbecome('65534', '65533')\n"
        "print(os.getresuid(), os.getresgid(), 0 in os.getgroups())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "(65534, 65534, 65534) (65533, 65533, 65533) False\n"


def test_a_umask_is_octal() -> None:
    before = os.umask(0o022)
    try:
        set_umask("027")
        assert os.umask(0o022) == 0o027
        with pytest.raises(ImproperlyConfigured, match="octal digits"):
            set_umask("89")
    finally:
        os.umask(before)
