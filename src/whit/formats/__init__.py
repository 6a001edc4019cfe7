"""Area: files that people already have, read into nouns, with the place of every mistake."""
