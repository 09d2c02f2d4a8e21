"""From a sequence-to-sequence network to sentences."""

SEMANTICS = 1
