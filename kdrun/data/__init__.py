"""Data sets in memory or memory-mapped, with a stable id for every sample; loaders and audits of them."""

SEMANTICS = 1
