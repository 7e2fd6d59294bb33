"""`python -m lemonade_serve` is `lemonade-serve`."""

from lemonade_serve.cli import main

main()
