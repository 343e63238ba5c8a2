"""The threat model names a test for each claim.

A name that no test has any more is a claim that nothing refutes.
"""

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "threat-model.md"


def test_every_test_that_the_threat_model_names_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    sources = {
        path.relative_to(TESTS).as_posix(): path.read_text(encoding="utf-8")
        for path in TESTS.rglob("test_*.py")
    }
    everything = "\n".join(sources.values())
    files = set(re.findall(r"`(?:tests/)?((?:\w+/)+test_\w+\.py)", text))
    assert len(files) > 20
    assert sorted(files - sources.keys()) == []
    named = re.findall(r"`(?:(?:tests/)?((?:\w+/)+test_\w+\.py)::)?(test_\w+)`", text)
    assert len(named) > 60
    missing = [
        f"{file}::{name}" for file, name in named if f"def {name}(" not in sources.get(file, everything)
    ]
    assert missing == []
