"""Builders of networks and their weight files; no training code."""

SEMANTICS = 1
