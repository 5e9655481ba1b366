"""Commands of servers other than gunicorn, for a House."""

from __future__ import annotations

import contextlib

import psutil

from tests.harness.house import House
from tests.harness.load import Address, wait_for_answer
from tests.harness.missing import program
from tests.harness.waiting import wait_until


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


def titled(house: House, title: str) -> set[int]:
    """Return the pids of the processes whose title begins with *title*."""
    found = set()
    for process in house.family():
        with contextlib.suppress(psutil.Error):  # it has ended between two looks
            if " ".join(process.cmdline()).startswith(title):
                found.add(process.pid)
    return found


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
    if not (files / "slow1").exists():  # never cut it short while it is served
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
    stub = f"{house.python} -m supervisor_hotreload.wrapper.orphan " if orphan else ""
    return f"{stub}{binary} -c {house.root}/nginx.conf -p {house.root}"


HAPROXY = """\
global
    {tuning}
defaults
    mode http
    timeout client 60s
    timeout connect 5s
    timeout server 60s
    timeout tarpit 1s
frontend web
    bind {listen}
    http-request tarpit deny_status 200 content-type text/plain string "{release} slow" \
if {{ path_beg /slow }}
    http-request return status 200 content-type text/plain string "{release} served"
"""


def configure_haproxy(
    house: House, release: str = "v1", listen: str = "", tuning: str = "", text: str = ""
) -> None:
    """Write haproxy.cfg; every answer begins with *release*, one of /slow1 takes 1 s: a
    tarpit that answers 200 is the one way to wait without a second server.

    :param tuning: a line of its global section.
    :param text: the whole file instead.
    """
    listen = listen or f"127.0.0.1:{house.port}"
    written = text or HAPROXY.format(listen=listen, release=release, tuning=tuning)
    (house.root / "haproxy.cfg").write_text(written)


def haproxy(house: House, *arguments: str) -> str:
    """Return the command of an HAProxy.

    :param arguments: ``-W -db`` for master-worker mode, ``-c`` for a check.
    """
    binary = program("haproxy", "apt-get install haproxy")
    return f"{binary} {' '.join(arguments)} -f {house.root}/haproxy.cfg"


RACK = """\
sleep {boot}
RELEASE = "{release}"
run lambda {{ |env|
  path = env["PATH_INFO"]
  sleep(path.delete_prefix("/slow").to_f) if path.start_with?("/slow")
  [200, {{ "Content-Type" => "text/plain" }}, ["#{{RELEASE}} #{{$$}} #{{Process.ppid}}"]]
}}
"""


def rack_release(house: House, name: str, boot: float = 0.0, code: str = "") -> None:
    """Write release *name* as a rackup file and let ``current`` point to it.

    :param boot: seconds that loading it takes.
    :param code: what the file holds instead.
    """
    folder = house.root / "releases" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.ru").write_text(code or RACK.format(boot=boot, release=name))
    house.release(name)


def unicorn(house: House, listen: str = "", workers: int = 2, more: str = "") -> str:
    """Return the command of a unicorn that serves ``current``, with its configuration written.

    :param more: lines of that.
    """
    binary = program("unicorn", "apt-get install unicorn")
    (house.root / "unicorn.rb").write_text(
        f"worker_processes {workers}\npid '{house.root}/unicorn.pid'\n{more}\n"
    )
    listen = listen or f"127.0.0.1:{house.port}"
    return f"{binary} -E none -c {house.root}/unicorn.rb -l {listen} config.ru"


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


def puma(house: House, *arguments: str) -> str:
    """Return the command of a puma with 2 workers that serves ``current``."""
    binary = program("puma", "apt-get install puma")
    words = " ".join(arguments)
    return f"{binary} -e production -w 2 -t 2:2 -b tcp://127.0.0.1:{house.port} {words} config.ru"
