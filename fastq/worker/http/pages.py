"""What a node answers over HTTP: /live, /ready, /metrics."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

from fastq.worker.http.server import Request, Response
from fastq.worker.shutdown import Stage

if TYPE_CHECKING:
    from fastq.worker.http.metrics import Metrics
    from fastq.worker.node import Node

__all__ = ["Pages", "unready"]

logger = logging.getLogger("fastq.worker.http")

_JSON = "application/json"
_INDEX = b"""/live     200 as long as the supervisor of this node works
/ready    200 if all its processes take tasks and the broker answers, else 503 and why not
/metrics  for Prometheus
"""
#: what is said where the client library is not installed
_MISSING = "metrics need prometheus_client, which is not installed: pip install 'fastq[metrics]'"


def unready(node: Node) -> list[str]:
    """Return why a node is not ready for tasks; nothing: it is."""
    reasons = []
    if node.stage is not Stage.RUNNING:
        reasons.append(f"it is stopping ({node.stage.name.lower()})")
    lease_s = node.hello.lease_ms / 1000
    age_s = time.monotonic() - node.renewed_s
    if not node.renewed_s:
        reasons.append("the broker has not answered yet")
    elif not node.reachable:
        reasons.append(f"the broker does not answer: the leases were renewed {age_s:.1f} s ago, and last {lease_s:g} s")
    elif age_s > lease_s:
        reasons.append(f"the leases were renewed {age_s:.1f} s ago, and last {lease_s:g} s")
    if not node.queues:
        reasons.append("it takes tasks from no queue")
    ready, wanted = sum(process.ready for process in node.processes()), node.wanted
    if ready < wanted:
        reasons.append(f"{ready} of {wanted} processes take tasks")
    return reasons


class Pages:
    """The routes."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._metrics: Metrics | None = None

    def check_metrics(self) -> None:
        """Say now what the first scrape would find missing. Nothing is imported: most of the memory comes with the first scrape."""
        # lazy: where an address is given
        from importlib.util import find_spec

        if find_spec("prometheus_client") is None:
            logger.warning("/metrics will answer 501: %s", _MISSING)

    def answer(self, request: Request) -> Response:
        """Answer a request."""
        if request.path == "/live":
            return self._json(200, {"live": True})
        if request.path == "/ready":
            reasons = unready(self._node)
            return self._json(503 if reasons else 200, {"ready": not reasons, "reasons": reasons})
        if request.path == "/metrics":
            return self._measure(request.accept)
        return Response(200 if request.path == "/" else 404, _INDEX)

    def _json(self, status: int, said: dict[str, Any]) -> Response:
        said = {"node": self._node.name, **said}
        return Response(status, json.dumps(said).encode() + b"\n", _JSON)

    def _measure(self, accept: str) -> Response:
        if self._metrics is None:
            try:
                # lazy: the client library costs 10 MB
                from fastq.worker.http.metrics import Metrics
            except ModuleNotFoundError as exc:
                if (exc.name or "").partition(".")[0] != "prometheus_client":
                    raise
                return Response(501, f"{_MISSING}\n".encode())
            self._metrics = Metrics(self._node)
        return Response(200, *self._metrics.write(accept))
