"""gunicorn: its masters, its command line, and what it needs to re-exec."""
