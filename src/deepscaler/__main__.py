"""`python -m deepscaler`: the command line where the installed script is not on the path, as under torchrun."""

from deepscaler.cli.main import main

if __name__ == "__main__":
    main()
