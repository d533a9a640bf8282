"""``python -m fgan`` is the command ``fgan``."""

from fgan_cli.main import main

if __name__ == "__main__":
    main()
