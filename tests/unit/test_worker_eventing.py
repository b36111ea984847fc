"""When a node says that it is there: after its processes have taken in that they are listened to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fastq.events.expansion import Expansion
from fastq.worker.eventing import CONFIRM_S, Eventing


class Node:
    """As much of a node as tells events: its loop's timers are run by hand."""

    def __init__(self, processes: int) -> None:
        self.name = "w1@h"
        self.hello = SimpleNamespace(events=True, event_stream_max=1000, event_expires_s=60)
        self.services = SimpleNamespace(heartbeat=SimpleNamespace(now=lambda: None))
        self.processes = processes
        self.orders: list[dict[str, Any]] = []
        self.timers: list[tuple[float, Any]] = []
        self.loop = self

    def order(self, order: dict[str, Any], *, standing: str) -> int:
        self.orders.append(order)
        return self.processes

    def after(self, delay_s: float, call: Any) -> Any:
        entry = (delay_s, call)
        self.timers.append(entry)
        return SimpleNamespace(cancel=lambda: self.timers.remove(entry))


class Channel:
    def __init__(self) -> None:
        self.told: list[str] = []
        self._expansion = Expansion()

    def send_events(self, batches: list[bytes], *, keep: int, expires_s: float) -> None:
        for batch in batches:
            self.told += [event["type"] for event in self._expansion.events(batch)]


def eventing(processes: int) -> tuple[Node, Channel, Eventing]:
    node, channel = Node(processes), Channel()
    return node, channel, Eventing(node, channel)  # type: ignore[arg-type]


def test_a_node_is_online_when_all_its_processes_tell_of_their_tasks() -> None:
    node, channel, events = eventing(2)
    events.beaten(True, {})
    assert [(order["do"], order["on"]) for order in node.orders] == [("events", True)] and channel.told == []
    events.confirmed(node.orders[0]["receipt"])
    assert channel.told == []
    events.confirmed(node.orders[0]["receipt"])
    assert channel.told == ["worker-online"] and node.timers == []
    events.beaten(True, {})
    assert channel.told == ["worker-online", "worker-heartbeat"] and len(node.orders) == 1


def test_a_process_that_is_held_up_does_not_hold_up_its_node_for_long() -> None:
    node, channel, events = eventing(2)
    events.beaten(True, {})
    events.beaten(True, {})  # another heartbeat, meanwhile
    events.confirmed(node.orders[0]["receipt"])
    [(delay_s, call)] = node.timers
    assert delay_s == CONFIRM_S and channel.told == []
    call()
    assert channel.told == ["worker-online"] and node.timers == []
    events.confirmed(node.orders[0]["receipt"])
    assert channel.told == ["worker-online"]


def test_a_node_whose_listener_has_gone_meanwhile_says_nothing() -> None:
    node, channel, events = eventing(1)
    events.beaten(True, {})
    events.beaten(False, {})
    assert node.timers == []
    events.confirmed(node.orders[0]["receipt"])
    events.confirmed(node.orders[1]["receipt"])
    events.stop()
    assert channel.told == []


def test_a_node_that_tells_of_no_task_waits_for_nobody() -> None:
    node, channel, events = eventing(1)
    events.enabled = False
    events.beaten(True, {})
    assert node.orders == [] and channel.told == ["worker-online"]
