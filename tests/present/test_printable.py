"""Names from outside reach no terminal and no page with characters that act there."""

import pytest

from kdrun.cli import main
from kdrun.present.tables import plain_table
from kdrun.report.markup import code, tag

EVIL = "a\x1b]0;title\x07\x9b2J\u202eb\ud800"
SIGNS = "\x1b\x07\x9b\u202e\ud800"


@pytest.mark.parametrize(
    "text", ["".join(plain_table([{"run": EVIL}])), str(tag("p", EVIL, title=EVIL)), str(code(EVIL))]
)
def test_a_table_and_a_page(text):
    assert "a" in text and not set(SIGNS) & set(text)


def test_a_cell_is_one_line():
    assert len(plain_table([{"run": "a\nb"}])) == 2


def test_a_message(capsys):
    assert main(["plan", f"student={EVIL[:-1]}"]) == 2
    assert not set(SIGNS) & set(capsys.readouterr().err)
