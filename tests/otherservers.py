"""Commands of servers other than gunicorn, for a House."""

from __future__ import annotations

import os
import pathlib
import shutil
import sys

from tests.house import House, wait_until
from tests.load import Address, wait_for_answer

BIN = pathlib.Path(sys.executable).parent


def program(name: str, package: str) -> str:
    """Return the path of a server.

    :raises AssertionError: with what to install.
    """
    path = os.pathsep.join((str(BIN), os.environ["PATH"], "/usr/sbin"))
    found = shutil.which(name, path=path)
    assert found, f"{name} is missing, install it with: {package}"
    return found


def uwsgi(house: House, *arguments: str, workers: int = 2) -> str:
    """Return the command of a uWSGI that serves ``current``."""
    binary = program("uwsgi", "pip install uwsgi")
    words = " ".join(arguments)
    return (
        f"{binary} --master --http-socket 127.0.0.1:{house.port} --processes {workers} "
        f"--disable-logging --chdir {house.root}/current --module app:app {words}"
    ).strip()


def start(house: House, address: Address, children: int) -> None:
    """Start supervisord and wait until the program answers and is complete.

    :param children: how many processes it is to have beside its master.
    """
    house.start()
    wait_for_answer(address)
    wait_until(lambda: len(house.family()) > children, what=lambda: house.story("lacks workers"))


NGINX = """\
daemon off;
worker_processes 2;
pid {root}/nginx.pid;
error_log {root}/error.log notice;
events {{ worker_connections 128; }}
http {{
    access_log off;
    client_body_temp_path {root}/tmp; proxy_temp_path {root}/tmp;
    fastcgi_temp_path {root}/tmp; uwsgi_temp_path {root}/tmp; scgi_temp_path {root}/tmp;
    server {{
        listen {listen};
        location / {{ return 200 "{release} served"; }}
        location /slow1 {{ root {root}/files; limit_rate 20k; }}
    }}
}}
"""


def configure_nginx(house: House, release: str = "v1", listen: str = "", text: str = "") -> None:
    """Write nginx.conf; every answer begins with *release*, one of /slow1 takes 1 s.

    :param text: the whole file instead.
    """
    files = house.root / "files"
    files.mkdir(exist_ok=True)
    (files / "slow1").write_text("slow " + "x" * 40000)
    for path in (house.root, files, files / "slow1"):
        path.chmod(0o755)
    listen = listen or f"127.0.0.1:{house.port}"
    written = text or NGINX.format(root=house.root, listen=listen, release=release)
    (house.root / "nginx.conf").write_text(written)


def nginx(house: House, orphan: bool = False) -> str:
    """Return the command of an nginx.

    :param orphan: started by the stub that can leave.
    """
    binary = program("nginx", "apt-get install nginx-light")
    stub = f"{house.python} -m supervisor_hotreload.orphan " if orphan else ""
    return f"{stub}{binary} -c {house.root}/nginx.conf -p {house.root}"


ASGI = """\
import asyncio, os, time
time.sleep({boot})
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({{"type": message["type"] + ".complete"}})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"].startswith("/slow"):
        await asyncio.sleep(float(scope["path"][5:] or 1))
    body = "{release} {{}}".format(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": body}})
"""


def asgi(house: House, name: str) -> str:
    """Return the command of an ASGI server that serves ``current``.

    granian imports from PYTHONPATH: what it is told itself it resolves only once.
    """
    house.environment["PYTHONPATH"] += f":{house.root}/current"
    binary = program(name, f"pip install {name}")
    arguments = {
        "granian": f"--interface asgi --host 127.0.0.1 --port {house.port} --workers 2 app:app",
        "uvicorn": f"--host 127.0.0.1 --port {house.port} --workers 2 --app-dir "
        f"{house.root}/current app:app",
        "hypercorn": f"--bind 127.0.0.1:{house.port} --workers 2 {house.root}/current/app:app",
    }[name]
    return f"{house.python} {binary} {arguments}"
