"""`python -m convexnet.lab.cli`, for torchrun, which starts modules and not commands."""

from convexnet.lab.cli import main

if __name__ == "__main__":
    main()
