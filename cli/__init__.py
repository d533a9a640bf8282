"""The command line of fgan; installed as ``fgan_cli``. Importing it never imports torch."""
