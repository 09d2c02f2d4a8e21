"""Kinds of stage: one file each. A lab runs any of them and knows none by name."""
