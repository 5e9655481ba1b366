"""A Django project in one file, with an SQLAlchemy pool that is safe under --preload.

    pip install django "sqlalchemy>=1.4.36" supervisor_hotreload gunicorn
    cd docs/examples/django_pool
    gunicorn --preload --workers 2 -c gunicorn.conf.py app:application
    curl localhost:8000/          # notes in the database which connection served which process
    curl localhost:8000/shared    # the connections that more than one process used: []

The same file under uWSGI:

    uwsgi --master --processes 2 --http 127.0.0.1:8000 --module app

DATABASE_URL chooses the database: SQLite (the default) or postgresql://... UNSAFE=1 leaves the hook
out, to see what happens without it. In a project of the usual shape, subscribe where it is loaded
before the first request: in wsgi.py or in AppConfig.ready().
"""

import os
import sys

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connections
from django.http import HttpResponse, JsonResponse
from django.urls import path

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "flask_pool"))
from pool import engine, note_use, shared_connections

from supervisor_hotreload.forks import PostFork, PreFork, subscribe


def index(request):
    return HttpResponse(f"connection {note_use()} used by process {os.getpid()}\n")


def shared(request):
    return JsonResponse(shared_connections(), safe=False)


urlpatterns = [path("", index), path("shared", shared)]

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="for the example only")
application = get_wsgi_application()


def replace_pool(event):
    """Start this worker with an empty pool; the master's connections stay the master's."""
    engine.dispose(close=False)


def close_django_connections(event):
    """Leave nothing of Django's own in the master that a worker could inherit."""
    connections.close_all()


if "UNSAFE" not in os.environ:
    subscribe(PostFork, replace_pool)
    subscribe(PreFork, close_django_connections)  # gunicorn only: uWSGI has no such event
