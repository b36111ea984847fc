"""What ``fastq multi`` does with nodes: start, stop, wait for, restart and kill them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

import click

from fastq.cli.multi.nodes import MultiNode

__all__ = ["Multi"]

#: seconds between two looks whether a process has ended: nobody tells who is not its parent
LOOK_S = 0.1
#: seconds between two dots
DOT_S = 1.0


class Multi:
    """Act on nodes and say so. Each action returns the exit code: 1 if anything did not go as asked."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._quiet = quiet
        self._verbose = verbose

    def say(self, text: str, *, newline: bool = True) -> None:
        if not self._quiet:
            click.echo(text, nl=newline)

    # --- start ---

    def start(self, nodes: Sequence[MultiNode]) -> int:
        self.say("> Starting nodes...")
        return max([self._start(node, "\t> ") for node in nodes])

    def _start(self, node: MultiNode, before: str) -> int:
        self.say(f"{before}{node.name}: ", newline=False)
        if self._verbose:
            self.say(f"\n\t\t{node.shown()}\n\t\t", newline=False)
        for name in (str(node.pidfile), *(a.partition("=")[2] for a in node.arguments if a.startswith("--logfile="))):
            try:
                os.makedirs(os.path.dirname(os.path.abspath(name)), exist_ok=True)
            except OSError as exc:
                self.say("FAILED")
                click.echo(f"{os.path.dirname(name)} cannot be made: {exc.strerror}", err=True)
                return 1
        done = subprocess.run(node.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.say("OK" if done.returncode == 0 else f"FAILED (exit code {done.returncode})")
        if done.returncode and done.stdout:
            click.echo(done.stdout.rstrip(), err=True)
        return 1 if done.returncode else 0

    # --- stop ---

    def stop(self, nodes: Sequence[MultiNode], signum: int, *, wait: bool = False) -> int:
        """Ask nodes to stop; with ``wait`` return when they have. A node that is down is said to be so, and no failure."""
        code, stopping = self._ask(nodes, signum)
        if wait:
            self._await(stopping, lambda node: self.say(f"\t> {node.name}: OK"))
        return code

    def _ask(self, nodes: Sequence[MultiNode], signum: int) -> tuple[int, dict[MultiNode, int]]:
        """Send a signal; return the exit code so far, and the pids of those it was sent to."""
        self.say("> Stopping nodes...")
        code, stopping = 0, {}
        for node in nodes:
            pid = node.pid()
            if pid is None:
                self.say(f"\t> {node.name}: DOWN")
            elif self._send(node, pid, signum):
                self.say(f"\t> {node.name}: {signal.Signals(signum).name.removeprefix('SIG')} -> {pid}")
                stopping[node] = pid
            else:
                code = 1
        return code, stopping

    def _send(self, node: MultiNode, pid: int, signum: int) -> bool:
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            self.say(f"\t> {node.name}: DOWN")
        except PermissionError:
            click.echo(f"\t> {node.name}: process {pid} belongs to somebody else", err=True)
            return False
        return True

    def _await(self, stopping: dict[MultiNode, int], ended: Callable[[MultiNode], object]) -> None:
        """Wait for processes to end, as long as it takes; say for which."""
        dot_at = 0.0
        while stopping:
            for node, pid in list(stopping.items()):
                if node.pid() != pid:
                    del stopping[node]
                    if dot_at:
                        self.say("")
                    dot_at = 0.0
                    ended(node)
            if stopping and not dot_at:
                many = "node" if len(stopping) == 1 else "nodes"
                self.say(f"> Waiting for {len(stopping)} {many} -> {', '.join(map(str, stopping.values()))}", newline=False)
            if stopping and time.monotonic() >= dot_at:
                self.say(".", newline=False)
                dot_at = time.monotonic() + DOT_S
            if stopping:
                time.sleep(LOOK_S)

    def restart(self, nodes: Sequence[MultiNode], signum: int) -> int:
        """Start each node again as soon as it has stopped; one that is down is started."""
        code, stopping = self._ask(nodes, signum)
        codes = [code]
        down = [node for node in nodes if node not in stopping]
        self._await(stopping, lambda node: codes.append(self._start(node, "> Restarting node ")))
        codes += [self._start(node, "> Restarting node ") for node in down if node.pid() is None]
        return max(codes)

    def kill(self, nodes: Sequence[MultiNode]) -> int:
        code = 0
        for node in nodes:
            pid = node.pid()
            if pid is None:
                self.say(f"\t> {node.name}: DOWN")
                continue
            self.say(f"Killing node {node.name} ({pid})")
            code = max(code, 0 if self._send(node, pid, signal.SIGKILL) else 1)
        return code
