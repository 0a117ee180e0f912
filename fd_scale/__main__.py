"""`python -m fd_scale`, which launchers start."""

from fd_scale.cli import main

main()
