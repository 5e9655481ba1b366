"""What the tests share: a supervisord, other servers, load, and what they look at."""
