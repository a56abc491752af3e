# intent_ref: quantum.cli
"""`python -m quantum` is the program `quantum`."""

from quantum.cli import main

main()
