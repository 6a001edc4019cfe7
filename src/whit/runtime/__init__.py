"""Area: an instance's bundle, its life under runc or crun, its monitor, logs and checks."""
