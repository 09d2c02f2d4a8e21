"""kdrun: an experiment runner for knowledge distillation. Importing it stays light: no torch, no hydra."""

__version__ = "0.1.0"
