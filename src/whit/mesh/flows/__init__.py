"""Flows: what the datapath tells, kept, and with names in place of numbers."""
