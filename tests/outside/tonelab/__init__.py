"""A package outside of kdrun that adds to it: a kind of data (tones of a pitch), a source, a network and a metric."""
