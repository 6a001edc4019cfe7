"""Hands: one module per external program. Typed input, JSON asked for where it is to be had, a dataclass back."""
