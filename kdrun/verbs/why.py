"""kdrun why TABLE:ROW:COLUMN: from a cell of a table to the runs it was made from."""

from __future__ import annotations

from kdrun.files import dump_json
from kdrun.problems import UserError, listed
from kdrun.verbs.arguments import Arguments


def main(args: Arguments) -> int:
    """Print the page, or with --json the same as one object."""
    from kdrun.tables.trace import find_cell, lines_of, trace
    from kdrun.tables.verify import stored_table
    from kdrun.verbs.runs import outputs_folder, take_no

    take_no(args, words=False)
    words = [part for word in args.words for part in word.split(":") if part]
    if not words:
        raise UserError("which cell? kdrun why TABLE:ROW:COLUMN", "tables: kdrun table")
    outputs = outputs_folder(args)
    _, table = stored_table(words[0], outputs)
    if len(words) != 3:
        ids = [listed(entry["id"] for entry in table[name]) for name in ("rows", "columns")]
        raise UserError(
            f"which cell of {words[0]}? kdrun why {words[0]}:ROW:COLUMN", f"rows: {ids[0]}", f"columns: {ids[1]}"
        )
    found = trace(table, find_cell(table, words[1], words[2]), outputs)
    if args.json:
        print(dump_json(found))
        return 0
    previous = ""
    for label, text in lines_of(found):
        print(f"{'' if label == previous else label:<10} {text}".rstrip())
        previous = label
    return 0
