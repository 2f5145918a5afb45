"""`python -m recursor` is the command line."""

from recursor.cli import main

if __name__ == "__main__":
    main()
