"""One self-contained HTML page about a run, a sweep or a table: `page.render`."""
