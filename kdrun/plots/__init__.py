"""Figures of runs: `subject` finds what is meant, `data` reads it into plain series, `curves`, `cost` and `seeds` draw panels, `paper` composes them."""
