"""`python -m zen_mlx` is `zen`."""

from .cli.main import run

run()
