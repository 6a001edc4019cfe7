"""Hands: the BPF objects, their typed maps, and where they are attached."""
