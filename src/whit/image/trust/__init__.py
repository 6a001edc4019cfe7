"""Who vouches for an image."""
