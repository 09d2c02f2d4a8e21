"""Data sets of images that packages ship, or that the user brings in their official files."""
