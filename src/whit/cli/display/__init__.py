"""How things are shown: tables, progress, the person's terminal, and pictures."""
