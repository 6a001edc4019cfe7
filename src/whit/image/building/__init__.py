"""Building: parts become steps, a worker carries each out, and what they leave is an image."""
