"""Networks of a vision tower and a language model."""
