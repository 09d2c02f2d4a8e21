"""Computed tomography: volumes with one diagnosis each, seen through windows of Hounsfield units."""
