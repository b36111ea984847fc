"""``fastq status``: which nodes are online, and how they are."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from fastq.cli.context import Settings, app_options, load_app_or_broker
from fastq.cli.remote import EX_UNAVAILABLE, not_online, tell_twice
from fastq.cli.replies import as_json, online
from fastq.cli.types import Names

if TYPE_CHECKING:
    from fastq.control.client import Control

__all__ = ["command"]

#: seconds that a heartbeat may take that was asked for
FRESH_S = 0.5
_HEAD = ("", "state", "pool", "size", "queues", "active", "processed", "uptime")


@click.command("status", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    *("-t", "--timeout"),
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    metavar="S",
    help="Wait for answers so long at most, seconds. Default: 1.",
)
@click.option("-d", "--destination", type=Names(), metavar="A,B", help="Only these nodes. Default: all.")
@click.option("-j", "--json", "json", is_flag=True, help="Print one JSON object, node to what is known of it.")
@app_options
def command(settings: Settings, /, timeout: float, destination: tuple[str, ...] | None, json: bool) -> None:
    """Print the nodes that are online: what they last said of themselves, and whether they answer now.

    Size is processes x slots of each. Exits with 0, with 69 if no node answers or one that -d names does not.
    """
    ctx = click.get_current_context()
    control = load_app_or_broker(settings).control
    began_s = time.monotonic()
    # not a ping: what a node has said of itself may be a third of its lease old, and now it says it anew
    replies = control.broadcast("heartbeat", destination=destination, timeout=timeout, reply=True)
    names = Counter(node for reply in replies or () for node in reply)
    answered = set(names)
    live = said = _heard(control, answered, began_s)
    if destination:
        said = {node: info for node, info in said.items() if node in destination}
    nodes = {node: {**said.get(node, {}), "answered": node in answered} for node in sorted({*said, *answered})}
    if json:
        click.echo(as_json(nodes))
    elif nodes:
        _print_table(nodes, time.time())
        click.echo(f"\n{online(len(answered))}")
    tell_twice(names)
    absent = [node for node in destination or () if node not in nodes]
    if absent:
        click.echo(not_online(absent, live), err=True)
        if live:
            click.echo(f"Online: {', '.join(live)}.", err=True)
    elif not answered:
        click.echo(f"Error: {f'No node has answered within {timeout:g} s.' if nodes else 'No node is online.'}", err=True)
    ctx.exit(0 if answered and answered >= set(destination or ()) else EX_UNAVAILABLE)


def _heard(control: Control, answered: set[str], began_s: float) -> dict[str, dict[str, Any]]:
    """Return the heartbeats of all nodes, those of who has answered from after ``began_s``, if they come soon."""
    asked_s = time.monotonic()
    while True:
        said = control.nodes()
        now_s = time.monotonic()
        late = any(node not in said or said[node]["age_s"] > now_s - began_s for node in answered)
        if not late or now_s - asked_s > FRESH_S:
            return said
        time.sleep(0.01)


def _print_table(nodes: Mapping[str, Mapping[str, Any]], now_s: float) -> None:
    rows = [_HEAD, *(_row(node, info, now_s) for node, info in nodes.items())]
    widths = [max(len(row[at]) for row in rows) for at in range(len(_HEAD))]
    for row in rows:
        line = "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        click.echo(click.style(line, dim=True) if row is _HEAD else line)


def _row(node: str, info: Mapping[str, Any], now_s: float) -> Sequence[str]:
    head = f"->  {node}: {'OK' if info['answered'] else 'NO ANSWER'}"
    if "pool" not in info:
        return (head, *[""] * (len(_HEAD) - 1))
    processes, slots = info.get("processes", 0), info.get("slots", 0)
    state = str(info.get("state", ""))
    if not info["answered"]:
        state = f"{state}, heard of {_span(info['age_s'])} ago"
    return (
        head,
        state,
        str(info["pool"]),
        f"{processes} x {slots // processes if processes else 0}",
        ",".join(info.get("queues", ())),
        str(info.get("active", "")),
        str(info.get("processed", "")),
        _span(now_s - info["started_at"]) if "started_at" in info else "",
    )


def _span(seconds: float) -> str:
    """Write a span of time with its two largest units."""
    left = max(0, int(seconds))
    words: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or words or unit == "s":
            words.append(f"{count}{unit}")
    return " ".join(words[:2])
