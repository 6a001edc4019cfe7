"""What looks after an instance while it runs: how it is, what it prints, how it ends, and commands in it."""
