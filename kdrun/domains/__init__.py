"""Kinds of data: one package each, with the same file names. The rest of kdrun asks a domain and names none."""
