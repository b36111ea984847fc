"""The names that the broker knows processes by: never used twice, and telling whether their supervisor still exists.

A name is ``<node>.<index>.<random>``. To the broker it is opaque. The random part starts with the boot and pid namespace, pid and
start time of the supervisor, so a node that starts on the same host sees at once which names belong to dead ones, instead of
watching their leases stand still for a lease and a half. Children die with their supervisor (``kinship.die_with``).
"""

from __future__ import annotations

import os
import re

__all__ = ["Identity"]

_NAME = re.compile(r"\.(?P<host>[0-9a-f]{12})-(?P<pid>[0-9]+)-(?P<start>[0-9]+)-[0-9a-f]{8}$")


class Identity:
    """Make the process names of one supervisor, and judge those of others."""

    def __init__(self, node: str) -> None:
        self.node = node
        self._host = _host()
        self._prefix = f"{self._host}-{os.getpid()}-{_start_time(os.getpid())}"

    def new_name(self, index: int) -> str:
        return f"{self.node}.{index}.{self._prefix}-{os.urandom(4).hex()}"

    def owns(self, process: str) -> bool:
        """Say whether this supervisor made the name."""
        return process.rpartition(".")[2].startswith(self._prefix + "-")

    def same_node(self, process: str) -> bool:
        """Say whether the name belongs to a node of this name, of this supervisor or another."""
        return process.startswith(self.node + ".") and process[len(self.node) + 1 :].count(".") == 1

    def is_gone(self, process: str) -> bool:
        """Say whether the name's supervisor ran on this boot of this host and does not exist any more. In doubt: no."""
        match = _NAME.search(process)
        if match is None or match["host"] != self._host or self.owns(process):
            return False
        pid = int(match["pid"])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:  # it is there, but another user's
            return False
        start = _start_time(pid)
        return start == "dead" or start not in ("0", match["start"])


def _host() -> str:
    """Return what tells one boot of one host, and one pid namespace on it, from all others."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # not Linux: names of other supervisors are then judged by their leases alone
        return os.urandom(6).hex()
    # the boot id is random already: its last 48 bits, mixed with the namespace's number (a hash would load OpenSSL, 2 MiB)
    return f"{int(boot.replace('-', '')[-12:], 16) ^ space:012x}"[-12:]


def _start_time(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; "dead" for a zombie, "0" where that cannot be read."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            # the second field is the command in parentheses and may contain anything: count from behind it
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return "0"
    return "dead" if fields[0] in "ZX" else fields[19]
