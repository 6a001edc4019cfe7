"""The commands of `whit`, by what they are about: each reads what the person gave, asks, and prints."""
