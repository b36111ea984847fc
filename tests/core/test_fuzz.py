"""A short form of ``python -m tests.fuzz_decoders``, with another seed each time."""

from __future__ import annotations

import random

from tests.fuzz_decoders import fuzz


def test_every_decoder_answers_mutated_input_with_a_value_or_its_own_error() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}: repeat with python -m tests.fuzz_decoders --inputs 15000 --seed {seed}")
    assert fuzz(seed, 15_000) == []
