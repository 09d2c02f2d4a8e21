"""Volumes that packages ship, patches of them, and a synthetic cohort."""
