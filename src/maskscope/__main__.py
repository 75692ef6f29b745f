"""``python -m maskscope``."""

from maskscope.cli import main

main()
