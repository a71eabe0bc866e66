"""Alembic's migrations, shipped in the package and run by the process itself at its start."""
