"""Distil a big vision model into a small one through what a conditional generator makes."""

from gankd.version import __version__

__all__ = ["__version__"]
