"""uWSGI: its family, options, chain reload, stats server and trial."""
