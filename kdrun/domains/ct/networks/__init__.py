"""Networks over the slices of a volume, or over the whole."""
