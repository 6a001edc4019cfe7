"""Sandboxes that are made and wait: before a gate, standing still, until somebody comes."""
