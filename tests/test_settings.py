"""Settings: where they may be, what they may be, and what is said when they cannot be used."""

from __future__ import annotations

import os
import pathlib

import pytest

from supervisor_hotreload.core.model import Condition, Policy, Ready, Triggers
from supervisor_hotreload.servers.settings import KEYS, TRIGGERS, BadSetting, Settings
from tests.harness.house import House
from tests.harness.load import get


def test_sections_override_defaults_and_one_another() -> None:
    settings = Settings(
        {"ready_timeout": "5", "bake": "1", "programs": "web"},
        {"web": {"ready_timeout": "6"}, "web:b": {"ready_timeout": "7", "bake": "0"}},
    )
    assert settings.errors() == []
    assert settings.policy("other", "other") == Policy(ready_timeout=5, bake=1)
    assert settings.policy("web", "a").ready_timeout == 6
    assert settings.policy("web", "b") == Policy(ready_timeout=7, bake=0)
    assert settings.programs() == ["web"]


def test_every_key_is_a_field() -> None:
    fields = {*Policy.__dataclass_fields__, *Triggers.__dataclass_fields__}
    assert set(KEYS) <= fields
    assert set(Triggers.__dataclass_fields__) == set(TRIGGERS)


def test_triggers_are_read_as_they_are_meant() -> None:
    settings = Settings(
        {"min_interval": "5m", "reload_on_sighup": "web, other"},
        {
            "web": {
                "touch": "/a, /b",
                "every": "1d",
                "max_memory": "2 GB",
                "settle": "0",
                "on": "tick_60, PROCESS_STATE:processname=x from_state=RUNNING",
            }
        },
    )
    assert settings.errors() == []
    triggers, errors = settings.triggers("web", "a")
    assert errors == []
    assert triggers == Triggers(
        touch=("/a", "/b"),
        every=86400,
        max_memory=2 << 30,
        settle=0,
        min_interval=300,
        on=(
            Condition("TICK_60"),
            Condition("PROCESS_STATE", (("processname", "x"), ("from_state", "RUNNING"))),
        ),
    )
    assert settings.sighup() == ["web", "other"]
    assert settings.policy("web", "a") == Policy()


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("touch", "relative", "not an absolute path"),
        ("every", "0", "has to be more than 0"),
        ("every", "5y", "unknown unit y (there are: s, m, h, d)"),
        ("max_memory", "8TB", "unknown unit TB (there are: KB, MB, GB)"),
        ("max_memory", "inf", "not a number"),
        ("on", "TICK_60:what", "what is not KEY=VALUE"),
        ("after", " , ", "empty"),
    ],
)
def test_a_bad_trigger_is_named_and_the_others_hold(key: str, value: str, why: str) -> None:
    settings = Settings({}, {"web": {key: value, "min_interval": "3"}})
    triggers, errors = settings.triggers("web", "web")
    assert triggers == Triggers(min_interval=3)
    assert errors == [f"[hotreload:web] {key} = {value}: {why}"]
    assert settings.errors() == errors
    assert settings.policy("web", "web") == Policy()  # it can be reloaded by hand


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("ready_timout", "3", "unknown key; did you mean ready_timeout"),
        ("nonsense", "3", "unknown key (there are: adopt_orphans, "),
        ("ready_timeout", "soon", "not a number"),
        ("ready_timeout", "0", "more than 0"),
        ("ready_timeout", "-1", "not a number of seconds"),
        ("ready_timeout", "nan", "not a number of seconds"),
        ("drain_timeout", "inf", "not a number of seconds"),
        ("relay_sighup", "maybe", "neither true nor false"),
        ("pidfile", "app.pid", "not an absolute path"),
        ("ready", "settle", "neither"),
        ("ready", "settle:-1", "not a number of seconds"),
        ("check", " ", "empty"),
        ("check", "'unterminated", "cannot be split"),
        ("programs", "all", "unknown key"),
    ],
)
def test_an_error_names_section_key_and_value(key: str, value: str, why: str) -> None:
    settings = Settings({}, {"myapp": {key: value}})
    (line,) = settings.errors()
    assert line.startswith(f"[hotreload:myapp] {key} = {value}: ")
    assert why in line
    with pytest.raises(BadSetting, match=key):
        settings.policy("myapp", "myapp")
    assert settings.policy("other", "other") == Policy()


def test_readiness() -> None:
    policy = Settings({}, {"a": {"ready": "settle:2.5"}}).policy("a", "a")
    assert policy.ready == Ready("settle", 2.5)
    assert str(policy.ready) == "settle:2.5"


def test_an_error_is_said_at_the_start_and_refuses_only_reloads(house: House) -> None:
    house.impostor("other", "other", os.geteuid())  # nothing that a program has left
    house.configure(settings="ready_timout = 3\nbake = long", defaults="drain_timeout = x")
    house.start()
    log = house.log()
    for line in (
        "[hotreload:myapp] ready_timout = 3: unknown key",
        "[hotreload:myapp] bake = long: not a number",
        "[rpcinterface:hotreload] drain_timeout = x: not a number",
    ):
        assert log.count(line) == 1
    done = house.ctl("hotreload", "myapp")
    assert done.returncode == 1
    reason = "[rpcinterface:hotreload] drain_timeout = x: not a number"
    assert f"{reason}; nothing was sent: correct it and reload again" in done.stdout
    assert get(house.port).startswith(b"v1 ")


def test_a_later_edit_is_picked_up_and_a_bad_one_refused(house: House) -> None:
    house.configure()
    house.start()
    before = house.info()["pid"]
    house.settings("ready_timeout = 0.7")
    house.release("v2", boot=600)
    done = house.ctl("hotreload", "myapp")
    assert "timed out after 0.7 s waiting for workers to boot" in done.stdout
    house.settings("ready_timeout = never")
    done = house.ctl("hotreload", "myapp")
    assert "[hotreload:myapp] ready_timeout = never: not a number" in done.stdout
    house.release("v2")
    house.settings("ready_timeout = 30")
    assert house.info()["pid"] == before
    house.reload()


def test_included_files_and_expansions(house: House) -> None:
    (house.root / "conf.d").mkdir()
    (house.root / "conf.d" / "myapp.conf").write_text(
        "[hotreload:myapp]\npidfile = %(here)s/app.pid\nready_timeout = %(ENV_PATIENCE)s\n"
    )
    house.configure(more="[include]\nfiles = conf.d/*.conf\n")
    house.environment["PATIENCE"] = "0.6"
    house.start()
    house.release("v2", boot=600)
    assert (
        "timed out after 0.6 s waiting for workers to boot"
        in house.ctl("hotreload", "myapp").stdout
    )


def test_a_file_that_is_included_later_is_seen(house: House) -> None:
    (house.root / "conf.d").mkdir()
    house.configure(more="[include]\nfiles = conf.d/*.conf\n")
    house.start()
    house.reload()
    (house.root / "conf.d" / "new.conf").write_text("[hotreload:myapp]\nready_timeout = no\n")
    assert "[hotreload:myapp] ready_timeout = no" in house.ctl("hotreload", "myapp").stdout
    (house.root / "conf.d" / "new.conf").write_text("garbage\n")
    done = house.ctl("hotreload", "myapp")
    assert done.returncode == 1
    assert "new.conf" in done.stdout


def test_settle_where_the_heartbeat_cannot_be_read(house: House) -> None:
    house.configure(settings="ready = settle:0.5")
    house.start()
    house.release("v2")
    house.reload()
    assert get(house.port).startswith(b"v2 ")


def hidden_house(house: House, path: str) -> pathlib.Path:
    """Let supervisord be root when it reads *path*, and nobody from then on."""
    house.open_to_all()
    house.configure(
        supervisord="user = nobody",
        defaults="bake = 0.5\n[include]\nfiles = conf.d/*.conf",
        settings="" if path else "ready = tcp://127.0.0.1:%(ENV_PORT)s",
    )
    house.environment["PORT"] = str(house.port)
    (house.root / "conf.d").mkdir()
    included = house.root / "conf.d" / "app.conf"
    if path:
        included.write_text("[hotreload:myapp]\nready = tcp://127.0.0.1:%(ENV_PORT)s\n")
    for shown in (included, included.parent, house.root / "supervisord.conf"):
        if shown.exists():
            shown.chmod(0o755)
    hidden = house.root / (path or "supervisord.conf")
    hidden.chmod(0o700 if hidden.is_dir() else 0o600)
    return hidden


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")


@as_root
@pytest.mark.parametrize("path", ["", "conf.d/app.conf", "conf.d"])
def test_settings_that_supervisord_can_read_no_more(house: House, path: str) -> None:
    """They are those that it has read as root; an edit that cannot be read is reported."""
    hidden = hidden_house(house, path)
    house.start()
    assert f"{hidden} cannot be read by user nobody of supervisord" in house.log()
    printed = house.reload().stdout
    assert f"ready = tcp://127.0.0.1:{house.port}" in printed
    assert "baking" in printed
    assert house.log().count("cannot be read by") == 1
    if not hidden.is_dir():
        with hidden.open("a") as file:
            file.write("ready_timeout = 7\n")
        house.reload()
        assert house.log().count("an edit has no effect until supervisord is started again") == 2
    assert "warning: " + str(hidden) in house.ctl("hotreload", "--status").stdout
    hidden.chmod(0o755)
    assert "no effect" not in house.ctl("hotreload", "--status").stdout


@as_root
def test_settings_that_nobody_has_read_refuse_every_reload(house: House) -> None:
    """Another module has imported hotreload before supervisord read its file."""
    hidden = hidden_house(house, "")
    early = house.root / "site" / "sitecustomize.py"
    early.write_text("import supervisor_hotreload.plugin.settings_file\n")
    early.chmod(0o666)
    house.start()
    why = f"{hidden} cannot be read by user nobody of supervisord; let that user read it"
    assert f"hotreload: {why}" in house.log()
    done = house.ctl("hotreload", "myapp")
    assert done.returncode == 1
    assert why in done.stdout
    assert f"warning: {why}" in house.ctl("hotreload", "--status").stdout
    hidden.chmod(0o644)
    assert f"ready = tcp://127.0.0.1:{house.port}" in house.reload().stdout
