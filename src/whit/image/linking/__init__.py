"""Linking: which files come into an image, and the proof that they suffice."""
