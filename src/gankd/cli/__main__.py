"""`python -m gankd.cli`."""

from gankd.cli import main

main()
