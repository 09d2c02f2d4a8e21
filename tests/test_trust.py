"""docs/trust.md names tests that there are."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_promise_names_a_test_that_is_there():
    rows = [line for line in (ROOT / "docs/trust.md").read_text().splitlines() if "`tests/" in line]
    assert len(rows) > 60
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(?:\w+::)?(test_\w+)`", row)
        assert named, row
        for file, name in named:
            assert re.search(rf"^\s*def {name}\(", (ROOT / file).read_text(), re.M), f"{file} has no {name}"
