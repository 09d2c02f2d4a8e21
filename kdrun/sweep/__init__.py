"""Many jobs from one command: planned and frozen first, each in a clean process, the table of them at the end."""
