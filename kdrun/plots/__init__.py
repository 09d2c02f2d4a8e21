"""Figures of runs: `subject` finds what is meant, `data` reads it into plain series, `curves`, `cost`, `seeds` and `hops` draw, `paper` composes."""
