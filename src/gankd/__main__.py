"""`python -m gankd` is the command line."""

from gankd.cli import main

main()
