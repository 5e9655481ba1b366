"""uWSGI: its masters, its options, its chain reload and its stats."""
