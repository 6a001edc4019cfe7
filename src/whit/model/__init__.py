"""Nouns: what a person wants (…Spec), what is observed (…Status), and the Protocols that areas offer."""
