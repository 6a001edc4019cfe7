"""`python -m whit.cli` is the whit command."""

from whit.cli.main import main

main()
