"""Random canvases: what comes out of the messages is what a direct evaluation gives, in whatever order the messages run."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastq import FastQ
from fastq.canvas.builtins import register
from tests.canvas_machine import Machine
from tests.canvases import Direct, Shape, fails, plain, shapes, signature_of


@pytest.fixture(scope="module")
def app() -> Iterator[FastQ]:
    def step(*args: Any) -> Any:
        return list(args)

    def fail(*args: Any) -> None:
        raise ValueError("no")

    def told(id: str, tag: int) -> None:
        assert isinstance(id, str)

    with FastQ("property", broker=f"memory://{uuid.uuid4()}", set_as_current=False) as app:
        register(app)
        for function in (step, fail, told):
            app.task(name=function.__name__)(function)
        yield app


def check(app: FastQ, shape: Shape, seed: int, lazily: bool) -> None:
    direct = Direct()
    expected = direct.value(shape)
    machine = Machine(app, order=random.Random(seed), repeat=True)
    result = signature_of(app, shape, lazily).apply_async()
    found = machine.run().value(result)
    assert plain(found) == plain(expected)
    runs = [(name, plain(args[1:] if name == "told" else args)) for name, args, _ in machine.runs if not name.startswith("fastq.")]
    assert Counter(map(repr, runs)) == Counter(map(repr, direct.runs))
    assert len(machine.ran) == len(set(machine.ran)), "no task runs twice"
    assert not machine.joins or fails(shape), "joins go with their bodies"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(shape=shapes, seed=st.integers(0, 2**32 - 1), lazily=st.booleans())
def test_a_random_canvas_gives_what_a_direct_evaluation_gives(app: FastQ, shape: Shape, seed: int, lazily: bool) -> None:
    check(app, shape, seed, lazily)
