"""The listener finds its command and gets in, or says what keeps it out and loses nothing."""

from __future__ import annotations

import hashlib
import pathlib
import xmlrpc.client
from typing import Any

import pytest
from supervisor.xmlrpc import SupervisorTransport

from supervisor_hotreload.listener.roster import Roster
from supervisor_hotreload.listener.rpcclient import RpcClient
from supervisor_hotreload.listener.watched_program import WatchedProgram
from tests.harness.house import House
from tests.harness.listening import Listening, answers
from tests.harness.sabotage import saboteur
from tests.harness.waiting import wait_until

PASSWORD = "open: sesame%"


class LockedHouse(House):
    """A house whose supervisord asks for a password, of which it knows the hash alone."""

    def write(self) -> None:
        super().write()
        path = self.root / "supervisord.conf"
        known = "{SHA}" + hashlib.sha1(PASSWORD.encode()).hexdigest()
        text = path.read_text().replace(
            "[unix_http_server]\n", f"[unix_http_server]\nusername = admin\npassword = {known}\n"
        )
        login = f"[supervisorctl]\nusername = admin\npassword = {PASSWORD.replace('%', '%%')}\n"
        path.write_text(text.replace("[supervisorctl]\n", login))

    def rpc(self) -> Any:
        url = f"unix://{self.root}/supervisor.sock"
        transport = SupervisorTransport("admin", PASSWORD, serverurl=url)
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport)


def test_a_listener_without_the_password_keeps_what_happens(house: House) -> None:
    house.__class__ = LockedHouse
    listening = Listening(house)
    touch = house.root / "touch"
    more = listening.section(more='environment = SUPERVISOR_USERNAME="admin"')
    more += listening.app("follower", "on = PROCESS_STATE_EXITED:processname=deploy")
    more += saboteur(patience="2")
    more += "[program:deploy]\ncommand = /bin/true\nautostart = false\nstartsecs = 0\n"
    house.configure("--workers 1", settings=f"settle = 0\ntouch = {touch}", more=more)
    house.start()
    wait_until(lambda: answers(house.port))
    listening.wait_for_log("NOTHING IS RELOADED UNATTENDED")
    assert "user name and password are wrong or missing" in listening.log()
    assert 'SUPERVISOR_USERNAME="...",SUPERVISOR_PASSWORD="..."' in listening.log()
    touch.touch()
    house.rpc().supervisor.startProcess("deploy", False)
    house.wait_for("EXITED", "deploy")
    listening.kill()  # the next one knows no more than this one
    listening.until(lambda: listening.log().count("NOTHING IS RELOADED") == 2)
    assert len(listening.log().splitlines()) == 2, "it is said once by each"
    warning = "the event listener hotreload has not asked for "
    wait_until(lambda: f"warning: {warning}" in house.ctl("hotreload", "--status").stdout)
    path = house.root / "supervisord.conf"
    login = 'SUPERVISOR_USERNAME="admin"'
    quoted = PASSWORD.replace("%", "%%")
    path.write_text(path.read_text().replace(login, f'{login},SUPERVISOR_PASSWORD="{quoted}"'))
    assert "hotreload: updated process group" in house.ctl("update").stdout
    listening.wait_for_reload("follower")
    wait_until(lambda: house.rpc().hotreload.getWarnings() == [])
    listening.wait_for_reload("myapp")
    assert f"myapp: reload started: touch = {touch}" in listening.log()
    assert "follower: reload started: on = PROCESS_STATE_EXITED" in listening.log()
    assert house.ctl("reread").stdout == "No config updates to processes\n"
    listening.kill()
    listening.wait_for_listener()
    assert (listening.reloads("myapp"), listening.reloads("follower")) == (1, 1)


def test_the_shipped_section_starts_from_a_virtual_environment(house: House) -> None:
    """supervisord is started without the PATH of the environment that it is installed in."""
    shipped = pathlib.Path(__file__).parent.parent / "conf.d" / "listener.conf"
    (house.root / "conf.d").mkdir()
    (house.root / "conf.d" / "listener.conf").write_text(
        shipped.read_text().replace("/var/log/supervisor/", f"{house.root}/")
    )
    house.environment["PATH"] = "/usr/bin:/bin"
    house.environment.pop("VIRTUAL_ENV", None)
    house.configure("--workers 1", more="[include]\nfiles = conf.d/*.conf\n")
    house.start()
    Listening(house).wait_for_listener()
    assert house.ctl("reread").stdout == "No config updates to processes\n"
    path = house.info("hotreload:hotreload")["pid"]
    environment = pathlib.Path(f"/proc/{path}/environ").read_bytes().split(b"\0")
    assert b"PATH=/usr/bin:/bin" in environment, "nothing else has changed for it"


@pytest.mark.parametrize("drains_on", [False, True])
def test_a_member_that_drains_for_long_holds_up_nobody(drains_on: bool) -> None:
    roster = Roster(RpcClient("unix:///nowhere"), lambda _: None)
    for name in ("one", "two"):
        row = {"group": "web", "active": name == "two", "drains_on": drains_on}
        roster.programs[name] = WatchedProgram(name, row)
    assert roster.is_group_busy(roster.programs["one"]) is not drains_on
    assert not roster.is_group_busy(roster.programs["two"])
