"""Which stages, in which order, and why: one file per strategy. Nothing here imports torch."""
