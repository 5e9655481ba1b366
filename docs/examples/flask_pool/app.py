"""A Flask app with an SQLAlchemy pool that is safe under --preload.

    pip install flask "sqlalchemy>=1.4.36" supervisor_hotreload gunicorn
    cd docs/examples/flask_pool
    gunicorn --preload --workers 2 -c gunicorn.conf.py app:application
    curl localhost:8000/          # notes in the database which connection served which process
    curl localhost:8000/shared    # the connections that more than one process used: []

The same file under uWSGI:

    uwsgi --master --processes 2 --http 127.0.0.1:8000 --module app

DATABASE_URL chooses the database: SQLite (the default) or postgresql://... UNSAFE=1 leaves the hook
out, to see what happens without it.
"""

import os

from flask import Flask, jsonify
from pool import engine, note_use, shared_connections

from supervisor_hotreload.forks import PostFork, subscribe

application = Flask(__name__)


def replace_pool(event):
    """Start this worker with an empty pool; the master's connections stay the master's."""
    engine.dispose(close=False)


if "UNSAFE" not in os.environ:
    subscribe(PostFork, replace_pool)


@application.route("/")
def index():
    return f"connection {note_use()} used by process {os.getpid()}\n"


@application.route("/shared")
def shared():
    return jsonify(shared_connections())
