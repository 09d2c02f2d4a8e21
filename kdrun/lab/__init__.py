"""Run stages once, remember them, resume them."""
