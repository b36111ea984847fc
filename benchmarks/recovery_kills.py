"""The kills of ``recovery.py``: who dies, and how long until what it ran runs again.

Every function makes so many kills and returns one time per kill: from the signal to the second start of the last of the tasks
that were running. Held tasks end at their second start.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping

from recovery_site import Node, Site

#: short tasks of 20 ms that wait behind the held ones, so that the queue is never empty at a kill
BEHIND = 10
#: slots of the node that takes over
SPARE = 4
#: how many victims a wave has: their starts share the machine, their kills are spread over a lease
AT_ONCE = 10
#: a wave's kills are spread over so many seconds at most
SPREAD_S = 5.0


def slots_of(pool: str) -> int:
    return 1 if pool == "solo" else 2


def child(site: Site, kills: int, lease_s: float) -> list[float]:
    """Kill the process that runs tasks, all its slots busy, other tasks waiting; its supervisor lives."""
    if site.pool == "solo":
        # the worker itself is the process that runs tasks; its keeper hands back, and another node takes over
        return _waves(site, kills, lease_s, host=True, kill=lambda node: os.kill(node.pid, signal.SIGKILL))
    slots = 2 if site.pool == "prefork" else 4
    node = site.start("node", slots)
    site.await_ready([node])
    if site.pool == "prefork":
        # its neighbour is busy with something long, which must not be touched by any of the kills
        neighbour = site.hold(1)
        site.wait(lambda: len(site.journal.running(neighbour)) == 1, "the neighbour busy")
        slots -= 1
    times: list[float] = []
    while len(times) < kills:
        keys = site.hold(slots)
        site.wait(lambda keys=keys: len(site.journal.running(keys)) == slots, "all slots busy")
        shorts = site.send("short", BEHIND)
        time.sleep(random.uniform(0, 0.2))
        site.journal.read()
        (pid,) = set(site.journal.running(keys).values())
        at_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        site.deaths.update(keys)
        times.append(max(site.await_again(dict.fromkeys(keys, at_s), 60).values()))
        site.wait(lambda shorts=shorts: site.journal.ended.issuperset(shorts), "the short tasks behind")
    return times


def supervisor(site: Site, kills: int, lease_s: float) -> list[float]:
    """Kill who keeps the leases, alone; a node on another host takes over."""
    return _waves(site, kills, lease_s, host=True, kill=lambda node: os.kill(node.keeper_pid(), signal.SIGKILL))


def node(site: Site, kills: int, lease_s: float) -> list[float]:
    """Kill every process of a node; a node on another host takes over."""
    return _waves(site, kills, lease_s, host=True, kill=Node.kill_all)


def neighbour(site: Site, kills: int, lease_s: float) -> list[float]:
    """Kill every process of a node; a node on the same host takes over."""
    return _waves(site, kills, lease_s, host=False, kill=Node.kill_all)


def restart(site: Site, kills: int, lease_s: float) -> list[float]:
    """Kill every process of the only node and start it again under its name, as a service manager does; timed from that start."""
    slots = slots_of(site.pool)
    current = site.start("node", slots)
    site.await_ready([current])
    times: list[float] = []
    while len(times) < kills:
        held = site.fill([current], slots)
        current.kill_all()
        site.deaths.update(held.keys())
        current.process.wait()
        following = site.start("node", slots)
        times.append(max(site.await_again(dict.fromkeys(held, following.spawned_s), 60 + 4 * lease_s).values()))
        site.forget([current])
        current = following
        site.await_ready([current])
    return times


def _waves(site: Site, kills: int, lease_s: float, *, host: bool, kill: Callable[[Node], object]) -> list[float]:
    """Kill nodes in waves, one survivor taking over from all; ``host``: each victim is on a host of its own."""
    survivor = site.start("survivor", SPARE, survivor=True)
    site.await_ready([survivor])
    slots = slots_of(site.pool)
    times: list[float] = []
    while len(times) < kills:
        first = len(times)
        count = min(AT_ONCE, kills - first)
        victims = [site.start(f"victim{first + i}", slots, host=os.urandom(6).hex() if host else "") for i in range(count)]
        site.await_ready(victims)
        held = site.fill(victims, slots, spare=SPARE)
        by_victim = {victim.name: [key for key, pid in held.items() if pid in victim.tree()] for victim in victims}
        # spread, so that the watcher's beats are met at all phases; below 1.2 leases, so that no victim can condemn another
        pauses_s = sorted(random.uniform(0, min(lease_s, SPREAD_S)) for _ in victims)
        begun_s = time.monotonic()
        killed: dict[str, float] = {}
        for victim, pause_s in zip(victims, pauses_s, strict=True):
            time.sleep(max(0.0, begun_s + pause_s - time.monotonic()))
            at_s = time.monotonic()
            kill(victim)
            site.deaths.update(by_victim[victim.name])
            killed |= dict.fromkeys(by_victim[victim.name], at_s)
        took = site.await_again(killed, 60 + 4 * lease_s)
        times += [max(took[key] for key in by_victim[victim.name]) for victim in victims]
        site.forget(victims)
    return times


#: kind -> what makes the kills; its docstring says what it is
KINDS: Mapping[str, Callable[[Site, int, float], list[float]]] = {
    "child": child,
    "supervisor": supervisor,
    "node": node,
    "neighbour": neighbour,
    "restart": restart,
}
