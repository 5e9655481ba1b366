"""The panels of the toolbar."""
