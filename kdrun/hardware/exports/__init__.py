"""Trained networks as files that other runtimes load, held against the network they come from, and measured."""
