"""The version of kdrun, also of its package."""

__version__ = "0.1.0"
