"""One module per container, each of which a Pyramid app can include by itself."""
