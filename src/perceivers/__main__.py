"""`python -m perceivers`: the same as the command `perceivers`."""

from perceivers.cli.main import main

if __name__ == "__main__":
    main()
