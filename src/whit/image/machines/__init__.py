"""Machines: from a machine file, with its images in the store, to one tree that boots."""
