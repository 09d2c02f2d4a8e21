"""Pure functions on tensors, one method per file, and the weighted sum of terms that uses them."""

SEMANTICS = 1
