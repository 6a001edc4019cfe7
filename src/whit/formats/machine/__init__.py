"""Machine files: LinuxKit's YAML."""
