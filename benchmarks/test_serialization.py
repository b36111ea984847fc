"""Writing and reading arguments and results."""

from __future__ import annotations

import datetime
import decimal
import uuid
from typing import Any

import pytest

from fastq.bench.tasks import build

PLAIN = [[1, "two", 3.0, None, [4, 5]], {"name": "x" * 50, "flag": True}]
RICH = [
    [datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC), decimal.Decimal("1.10"), uuid.UUID(int=7), (1, 2), {3, 4}],
    {"until": datetime.timedelta(days=1)},
]


@pytest.mark.parametrize(
    ("name", "value"), [("msgpack", PLAIN), ("json", PLAIN), ("msgpack", RICH)], ids=["msgpack", "json", "rich"]
)
@pytest.mark.parametrize("way", ["dumps", "loads"])
def test_serializer(benchmark: Any, name: str, value: object, way: str) -> None:
    serializers = build("memory://", None).app.serializers
    content_type, body = serializers.dumps(name, value)
    if way == "dumps":
        benchmark(serializers.dumps, name, value)
    else:
        assert benchmark(serializers.loads, content_type, body) == value
