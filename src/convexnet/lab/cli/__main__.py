"""`python -m convexnet.lab.cli`: torchrun starts modules, not commands."""

from convexnet.lab.cli import main

if __name__ == "__main__":
    main()
