"""`python -m services.cli` is `lookalike`."""

from services.cli.main import app

app()
