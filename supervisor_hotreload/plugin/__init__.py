"""What runs inside supervisord: the only code that touches supervisor's internals."""
