"""``fastq dead``: what it prints, what it refuses, how it exits."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from fastq import _core
from fastq.cli import cli, dead, dead_render
from fastq.cli.types import Span
from fastq.dead import Letter
from fastq.records import DEAD, DeadLetter, Fetch, Publication, Settlement
from fastq.transports import TransportOptions, open_broker, open_inspector

Invoke = Callable[..., Result]


def message(id: str, name: str = "shop.charge", body: bytes = b"\x92\x91\x01\x80") -> bytes:
    return _core.encode(id, name, "application/x-msgpack", body, 1_700_000_000_000, None, 0, None, None)


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A broker that is all that is known: no application is to be found."""
    monkeypatch.chdir(tmp_path)
    return f"memory://dead-{secrets.token_hex(4)}"


@pytest.fixture
def bury(url: str) -> Callable[..., None]:
    broker = open_broker(url, TransportOptions())
    numbers = iter(range(1, 1000))

    def bury(*ids: str, name: str = "shop.charge", queue: str = "default", reason: str = "failed", **detail: Any) -> None:
        for id in ids:
            number = next(numbers)
            broker.renew([queue], ["p"], 15_000)
            broker.publish("producer", number, [Publication(queue, message(id, name))])
            (leased,) = broker.fetch(Fetch("p", number, (queue,), 1)).leased
            settlement = Settlement(queue, leased.tags[0], id, DEAD, reason=reason, detail=_core.packb(detail))
            broker.settle("p", [settlement], results=True)

    return bury


@pytest.fixture
def fastq(url: str) -> Invoke:
    def invoke(*args: str, **options: Any) -> Result:
        return CliRunner().invoke(cli, ["-b", url, "dead", *args], prog_name="fastq", **options)

    return invoke


def depth(url: str, queue: str = "default") -> tuple[int, int]:
    inspector = open_inspector(url, TransportOptions())
    counts = inspector.depth(queue)
    return counts["ready"], counts["dead"]


def test_nothing_is_said_in_words(fastq: Invoke) -> None:
    for args in ((), ("list",), ("-Q", "x"), ("retry", "--all"), ("purge",), ("delete", "-t", "x"), ("purge", "-f")):
        result = fastq(*args)
        assert (result.exit_code, result.output) == (0, "No dead letters.\n"), args
    assert fastq("count").output == "0\n"
    assert fastq("--json").output == ""


def test_without_a_command_it_lists_whatever_the_options(fastq: Invoke, bury: Any) -> None:
    bury("a", "b", error="boom")
    bury("c", name="list", reason="rejected")
    for args in ((), ("-n", "5"), ("list",), ("--task", "shop.*", "-n", "2")):
        result = fastq(*args)
        assert result.exit_code == 0
        assert "  a  shop.charge  default  failed  boom" in result.output
    # the value of an option is no command
    assert fastq("-t", "list").output.count("\n") == 1
    assert "No such command 'retyr'. Commands: count, delete" in fastq("retyr").output
    assert "Usage: fastq dead [OPTIONS] COMMAND" in fastq("-h").output


def test_a_list_can_be_read_by_programs(fastq: Invoke, bury: Any) -> None:
    bury("a", "b", error="boom")
    lines = [json.loads(line) for line in fastq("--json").output.splitlines()]
    assert [line["id"] for line in lines] == ["b", "a"]
    assert set(lines[0]) == {"key", "id", "task", "queue", "reason", "died_at", "retries", "deliveries", "error"}
    shown = json.loads(fastq("show", "a", "--json").output)
    assert shown["args"] == [1] and shown["history"][0]["what"] == "sent"


def test_what_a_limit_leaves_out_is_said(fastq: Invoke, bury: Any) -> None:
    bury("a", "b", "c")
    assert "2 of 3: -n shows more, --offset 2 the next." in fastq("-n", "2").stderr
    assert fastq("-n", "3").stderr == "" and fastq("-n", "2", "--offset", "1").stderr == ""


def test_a_letter_is_shown_with_what_is_in_it(fastq: Invoke, bury: Any) -> None:
    bury("abcdef", error="ValueError: x", traceback="Traceback\n  \x1b[31mframe", node="w1@host")
    output = fastq("show", "abcd").output
    for text in ("task:      shop.charge\n", "id:        abcdef\n", "args:      [1]\n", "kwargs:    {}\n", "\\u001b[31mframe"):
        assert text in output
    assert "became a dead letter on w1@host: failed" in output


def test_ids_that_are_not_there_exit_with_1(fastq: Invoke, bury: Any, url: str) -> None:
    bury("a", "b")
    for verb in ("show", "retry", "delete"):
        result = fastq(verb, "nobody")
        assert result.exit_code == 1 and "No dead letter has the id nobody" in result.stderr, verb
    result = fastq("retry", "a", "nobody")
    assert result.exit_code == 1 and "Put back 1 dead letter." in result.output
    assert depth(url) == (1, 1)
    assert fastq("retry", "--dry-run", "b", "nobody").exit_code == 1 and depth(url) == (1, 1)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("retry",), "Which? Give IDs, a filter such as --task"),
        (("delete",), "Which? Give IDs, a filter such as --task"),
        (("retry", "abcd-1", "--all"), "expected one of them"),
        (("show",), "Missing argument"),
        (("show", "abcd"), "more than one id begins with 'abcd'"),
        (("delete", "abcd"), "more than one id begins with 'abcd'"),
        (("--reason", "faild"), "Did you mean 'failed'? They are: failed, worker-lost"),
        (("--older-than", "2 fortnights"), "is not a span of time: expected a number with s, m, h, d or w"),
        (("--since", "yesterday"), "ISO 8601"),
        (("-n", "0"), "0 is not in the range"),
        (("retry", "--all", "--to", ""), "the name of a queue"),
        (("retry", "--all"), "2 dead letters would be taken, and nobody is there to be asked: give -f."),
        (("delete", "--task", "shop.*"), "nobody is there to be asked: give -f."),
        (("purge",), "nobody is there to be asked: give -f."),
    ],
)
def test_what_is_asked_wrongly_exits_with_2_and_does_nothing(fastq: Invoke, bury: Any, url: str, args: Any, said: str) -> None:
    bury("abcd-1", "abcd-2")
    result = fastq(*args, *(["-f"] if "--to" in args else []))
    assert result.exit_code == 2 and said in result.output
    assert depth(url) == (0, 2)


def test_retry_puts_back_what_is_meant(fastq: Invoke, bury: Any, url: str) -> None:
    bury("abcd-1", "wxyz-1")
    bury("c", reason="rejected")
    assert fastq("retry", "abcd").output == "Put back 1 dead letter.\n"
    assert fastq("retry", "--reason", "rejected", "-f", "--to", "repair").output == "Put back 1 dead letter into queue repair.\n"
    assert depth(url) == (1, 1) and depth(url, "repair") == (1, 0)
    assert fastq("retry", "--all", "-f").output == "Put back 1 dead letter.\n"


def test_delete_and_purge_drop(fastq: Invoke, bury: Any, url: str) -> None:
    bury("a", "b", "c")
    bury("d", queue="mail")
    assert fastq("delete", "a").output == "Dropped 1 dead letter.\n"
    assert fastq("purge", "-Q", "mail", "-f").output == "Dropped 1 dead letter.\n"
    assert fastq("purge", "-f").output == "Dropped 2 dead letters.\n"
    assert depth(url) == (0, 0)


def test_a_dry_run_lists_and_does_nothing(fastq: Invoke, bury: Any, url: str) -> None:
    bury("a", "b")
    for args in (("retry", "--all"), ("delete", "-t", "*"), ("purge",), ("retry", "a", "b")):
        result = fastq(*args, "--dry-run")
        assert result.exit_code == 0 and result.output.count("shop.charge") == 2
    assert depth(url) == (0, 2)


def test_on_a_terminal_it_asks(fastq: Invoke, bury: Any, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bury("a", "b")

    monkeypatch.setattr(dead, "_someone_to_ask", lambda: True)
    refused = fastq("purge", input="n\n")
    assert refused.exit_code == 1 and "2 dead letters on memory://" in refused.output
    assert "Drop them? There is no undo." in refused.output
    assert depth(url) == (0, 2)
    assert fastq("retry", "--all", input="y\n").exit_code == 0
    assert depth(url) == (2, 0)


def letter(id: str, error: str = "ValueError: x", name: str = "shop.charge", queue: str = "default") -> Letter:
    return Letter(DeadLetter("1", queue, message(id, name), "failed", 1_700_000_000_000, {"error": error}))


def test_a_table_fits_80_columns_and_its_ids_are_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ids = _core.new_ids(1_700_000_000_000, 4)
    error = "[red]error[/red] " + "x" * 500
    letters = [letter(id, error, "a.very.long.module.name.of.a.task", f"q{i % 2}") for i, id in enumerate(ids)]
    assert dead_render.print_table(iter(letters), "none") == 4
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and max(map(len, lines)) <= 80
    for id, line in zip(ids, lines[1:], strict=True):
        short = line.split("  ")[1]
        assert id.startswith(short.strip()) and sum(other.startswith(short.strip()) for other in ids) == 1
        assert "[red]" in line


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("1.5h", 5400), ("7d", 604_800), ("1w", 604_800)]
)
def test_a_span_of_time_has_a_unit(text: str, seconds: float) -> None:
    assert Span().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "h", "-2h", "2 days", "1e3", "inf"])
def test_other_spans_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a span of time"):
        Span().convert(text, None, None)
