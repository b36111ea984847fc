"""``fastq health``: ask the workers of this host whether they are well, for probes of containers. Imports no application."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from typing import NamedTuple

import click

from fastq.cli.address import HTTPAddress
from fastq.worker.http.address import Address
from fastq.worker.http.doors import Door, doors_here
from fastq.worker.procname import expand_node

__all__ = ["command"]

#: bytes of an answer
ANSWER_MAX = 64 * 1024


class Health(NamedTuple):
    """How one node is."""

    node: str
    well: bool
    text: str


@click.command("health", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--http",
    "address",
    type=HTTPAddress(),
    metavar="ADDR",
    help="Ask there: HOST:PORT, :PORT or unix:PATH, as given to fastq worker. Default: every worker of this user on this host.",
)
@click.option("-n", "--hostname", "node", metavar="NAME", help="Ask only the worker with this name, as given to fastq worker -n.")
@click.option("--live", is_flag=True, help="Only ask whether it works at all (/live), not whether it takes tasks (/ready).")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    metavar="S",
    help="How long an answer may take.",
)
def command(address: Address | None, node: str | None, live: bool, timeout_s: float) -> None:
    """Exit with 0 if the workers here are ready for tasks, with 1 if one is not, or there is none; say so in one line.

    For the probes of containers: it needs no application, no configuration and no broker.
    """
    if address is not None and node is not None:
        raise click.UsageError("--http and -n exclude each other: an address is that of one worker.")
    page, good = ("/live", "live") if live else ("/ready", "ready")
    found = [_at(address, page, timeout_s)] if address is not None else _here(node, page, timeout_s)
    if not found:
        who = f"no worker named {expand_node(node)}" if node is not None else "no worker of this user"
        click.echo(f"not {good}: {who} runs here")
        sys.exit(1)
    ill = [health for health in found if not health.well]
    if ill:
        said = "; ".join(f"{health.node}: {health.text}" for health in ill)
        click.echo(f"not {good}: {said}" + (f" ({len(ill)} of {len(found)} workers)" if len(found) > 1 else ""))
        sys.exit(1)
    click.echo(f"{good}: {', '.join(health.node for health in found)}")


def _at(address: Address, page: str, timeout_s: float) -> Health:
    try:
        with address.connect(timeout_s) as client:
            return _ask(client, page, timeout_s)
    except OSError as exc:
        return Health(str(address), False, _reason(exc))


def _here(node: str | None, page: str, timeout_s: float) -> list[Health]:
    """Ask the nodes of this user, of root those of all; those of other containers, in the same pod, are not of this host."""
    wanted = expand_node(node) if node is not None else None
    found = []
    for door in doors_here(os.getuid() or None):
        if wanted is None or door.is_of(wanted):
            health = _through(door, wanted or door.node, page, timeout_s)
            if health is not None:
                found.append(health)
    return found


def _through(door: Door, node: str, page: str, timeout_s: float) -> Health | None:
    try:
        client = door.connect(timeout_s)
        if client is None:
            return None
        with client:
            return _ask(client, page, timeout_s)
    except OSError as exc:
        return Health(node, False, _reason(exc))


def _ask(client: socket.socket, page: str, timeout_s: float) -> Health:
    """Fetch a page; OSError if nothing that can be understood comes in time."""
    deadline_s = time.monotonic() + timeout_s
    client.sendall(f"GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    data = b""
    while len(data) < ANSWER_MAX:
        client.settimeout(max(0.001, deadline_s - time.monotonic()))
        more = client.recv(ANSWER_MAX)
        if not more:
            break
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    try:
        status = int(head.split(maxsplit=2)[1])
        said = json.loads(body)
        return Health(str(said["node"]), status == 200, "; ".join(said.get("reasons", ())) or f"it answers {status}")
    except (ValueError, LookupError, TypeError):
        raise OSError("this is not the health of a fastq worker") from None


def _reason(exc: OSError) -> str:
    if isinstance(exc, TimeoutError):
        return "it does not answer"
    return exc.strerror or str(exc)
