"""App files: whit.yaml and Compose."""
