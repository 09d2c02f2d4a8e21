"""Images with one class each."""

SEMANTICS = 1
