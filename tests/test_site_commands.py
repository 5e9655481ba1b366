"""Command lines that gunicorn does not repeat when it re-execs: sys.executable and sys.argv."""

from __future__ import annotations

import pytest

from tests.harness.house import House
from tests.harness.load import Load, get
from tests.harness.waiting import wait_until

SERVE = """\
import sys
from gunicorn.app.base import BaseApplication
class Site(BaseApplication):
    def load_config(self):
        self.cfg.set("bind", "127.0.0.1:{port}")
        self.cfg.set("workers", 2)
    def load(self):
        sys.path.insert(0, ".")
        import app
        return app.app
if __name__ == "__main__":
    Site().run()
"""

MANAGE = """\
import sys
from gunicorn.app.wsgiapp import run
if sys.argv[1:] in ([], ["serve"]):
    sys.argv[1:] = {options!r}
run()
"""

SHEBANG = """\
#!{python} -s
import sys
from gunicorn.app.wsgiapp import run
sys.exit(run())
"""


def commands(house: House, kind: str) -> str:
    options = f"--bind 127.0.0.1:{house.port} --workers 2 app:app"
    if kind == "python -u gunicorn":
        return f"{house.python} -u {house._gunicorn} {options}"
    if kind == "python -u -m gunicorn":
        return f"{house.python} -u -m gunicorn {options}"
    if kind == "python -W ignore -X faulthandler gunicorn":
        return f"{house.python} -W ignore -X faulthandler {house._gunicorn} {options}"
    if kind == "#!python -s":  # Fedora's and RHEL's /usr/bin/gunicorn
        path = house.root / "gunicorn"
        path.write_text(SHEBANG.format(python=house.python))
        path.chmod(0o755)
        return f"{path} {options}"
    if kind == "python -m serve":
        (house.root / "serve.py").write_text(SERVE.format(port=house.port))
        house.environment["PYTHONPATH"] += f":{house.root}"
        return f"{house.python} -m serve"
    path = house.root / "manage.py"
    path.write_text(MANAGE.format(options=options.split()))
    return f"{house.python} {path}" + (" serve" if kind == "manage.py serve" else "")


@pytest.mark.parametrize(
    "kind",
    [
        "python -u gunicorn",
        "python -u -m gunicorn",
        "python -W ignore -X faulthandler gunicorn",
        "#!python -s",
        "python -m serve",
        "serve.py",
        "manage.py serve",
    ],
)
def test_reload(house: House, kind: str) -> None:
    house.configure(command=commands(house, kind))
    house.start(running="")
    house.wait_for("RUNNING")
    wait_until(lambda: len(house.masters()) == 1)
    with Load(house.port, fast=2, slow=0) as load:
        house.release("v2")
        done = house.ctl("hotreload", "myapp")
        load.forget_longest()
        masters = house.masters()
        assert done.returncode == 0, (done.stdout[-200:], masters, dict(load.releases))
        load.wait_for("v2")
    assert load.dropped == []
    assert get(house.port).startswith(b"v2")
