"""Whit: a decomposed cloud operating system. Not a whit more operating system than your app needs."""

__version__ = "0.1.0"
