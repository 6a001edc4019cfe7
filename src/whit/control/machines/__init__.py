"""Machines: settled, made to boot, booted."""
