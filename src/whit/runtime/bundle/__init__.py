"""What an instance is given before it runs: config.json, its user, its root and volumes, and what it may do."""
