"""Reload web servers under supervisord without dropping a request."""

__version__ = "1.0.0"
