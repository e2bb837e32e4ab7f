"""The golden vectors that the C++ program is held to are what Python gives."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.face import golden

ENTRIES = json.loads(golden.FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(golden.TOLERANCE))
def test_python_gives_the_golden_vectors(name):
    found = [entry for entry in ENTRIES if entry["function"] == name]
    assert found
    for entry in found:
        value = golden.answer(name, entry["arguments"])
        assert np.abs(value[entry["at"]] - entry["expected"]).max() <= 1e-4
        if name == "suppress":
            assert value.size == len(entry["expected"])
