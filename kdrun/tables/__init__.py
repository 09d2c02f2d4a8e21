"""Tables of a paper: described in conf/table/NAME.yaml, filled from the records of runs, checked, rendered.

spec      what a table file may say, and the jobs it stands for
metrics   a figure of a record: mean, sample deviation, n, and which seeds are missing
build     the table as one plain mapping, made from nothing but records
checks    what must hold before a table is written
render    that mapping as Markdown, LaTeX, CSV and for a terminal
verify    committed tables against today's records and table file
cost      what is missing here for a table, and an estimate of what it would take
trace     from a cell to its runs
"""
