"""``python -m fgan_cli`` is the command ``fgan``; torchrun starts it so on every process."""

from .main import main

if __name__ == "__main__":
    main()
