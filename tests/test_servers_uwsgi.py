"""uWSGI keeps its pid; a reload is over when its new workers serve."""

from __future__ import annotations

import pathlib
import socket
import time

import pytest

from supervisor_hotreload.servers import uwsgi_options, uwsgi_stats
from supervisor_hotreload.servers.family import Program
from tests.house import APP, House, parent, wait_until
from tests.listening import QUICK, Listening
from tests.load import Load, get
from tests.otherservers import start, uwsgi

STOP = "stopsignal = INT"


def workers(house: House) -> set[int]:
    master = house.info()["pid"]
    return {p.pid for p in house.family() if parent(p) == master}


LAYOUTS = {
    "graceful": [],
    "graceful-lazy": ["--lazy-apps"],
    "graceful-stats": ["--stats", "stats.sock"],
    "graceful-lazy-stats": ["--lazy-apps", "--stats", "stats.sock"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_graceful_reload_drops_nothing_and_blocks_until_done(house: House, layout: str) -> None:
    arguments = [word.replace("stats.", f"{house.root}/stats.") for word in LAYOUTS[layout]]
    house.configure(command=uwsgi(house, *arguments), program=STOP)
    start(house, house.port, 2)
    pid, before = house.info()["pid"], workers(house)
    with Load(house.port, slow=1) as load:
        for release in ("v2", "v3"):
            house.release(release, boot=0.5)
            load.wait_in_flight()
            done = house.reload()
            answers = {get(house.port).split()[0].decode() for _ in range(5)}
            assert answers == {release}, done.stdout
    assert load.dropped == []
    assert house.info()["pid"] == pid
    assert not before & workers(house)
    assert "check_before" not in done.stderr
    assert house.reload_info()["generation"] == 3
    assert house.ctl("stop", "myapp").stdout == "myapp: stopped\n"
    wait_until(lambda: not house.family())


@pytest.mark.parametrize("by", ["fifo", "touch"])
def test_a_chain_reload_replaces_one_worker_after_the_other(house: House, by: str) -> None:
    touched = house.root / "reload"
    touched.touch()
    more = {
        "fifo": f"--master-fifo {house.root}/fifo",
        "touch": f"--touch-chain-reload {touched}",
    }[by]
    path = f"--pythonpath {house.root}/current"
    command = uwsgi(house, f"--lazy-apps --stats {house.root}/stats.sock {more} {path}", workers=3)
    house.configure(command=command.replace(f"--chdir {house.root}/current", ""), program=STOP)
    start(house, house.port, 3)
    pid, before = house.info()["pid"], workers(house)
    with Load(house.port, slow=0) as load:
        house.release("v2", boot=0.4)
        done = house.reload()
        assert {get(house.port).split()[0] for _ in range(6)} == {b"v2"}
        longest = load.longest
    assert load.dropped == []
    assert longest < 0.3  # the import takes 0.4 s, nobody waits for it
    assert house.info()["pid"] == pid
    assert not before & workers(house)
    progress = [line["text"] for line in house.reload_info()["log"]]
    assert any("worker 1 of 3" in text or "worker 2 of 3" in text for text in progress), done.stdout


@pytest.mark.parametrize("strategy", ["graceful", "chain"])
def test_a_router_is_no_worker(house: House, strategy: str) -> None:
    more = f"--lazy-apps --master-fifo {house.root}/fifo --pythonpath {house.root}/current"
    command = uwsgi(house, more).replace("--http-socket", "--http")
    house.configure(command=command, program=STOP, settings=f"strategy = {strategy}")
    start(house, house.port, 3)
    house.release("v2", boot=0.4)
    printed = house.reload().stdout
    assert "there are 2" in printed
    assert "2/2 workers ready" in printed
    assert {get(house.port).split()[0] for _ in range(6)} == {b"v2"}


@pytest.mark.parametrize("strategy", ["graceful", "chain", "auto"])
def test_broken_code_is_tried_before_and_changes_nothing(house: House, strategy: str) -> None:
    more = f"--lazy-apps --need-app --master-fifo {house.root}/fifo"
    path = f"--pythonpath {house.root}/current"
    command = uwsgi(house, more, path)
    house.configure(command=command, program=STOP, settings=f"strategy = {strategy}")
    start(house, house.port, 2)
    before = workers(house)
    house.release("broken", code="import no_such_module")
    with Load(house.port, slow=0) as load:
        done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert "No module named 'no_such_module'" in done.stdout
    assert "check_before (import of app:app" in done.stdout
    assert "generation 1" in done.stdout.splitlines()[-1]
    assert load.dropped == []
    assert set(load.releases) == {"v1"}
    assert workers(house) == before
    house.release("v2")
    house.reload()
    assert get(house.port).startswith(b"v2 ")


def test_code_that_breaks_only_inside_is_told_by_the_stats_server(house: House) -> None:
    """check_before = none: uWSGI goes on without an app, and the answer says so."""
    house.configure(
        command=uwsgi(house, "--stats", f"{house.root}/stats.sock"),
        program=STOP,
        settings="check_before = none\nready_timeout = 15",
    )
    start(house, house.port, 2)
    house.release("broken", code="import no_such_module")
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert "have no application" in done.stdout


def test_a_late_check_before_touches_nothing(house: House) -> None:
    house.configure(
        command=uwsgi(house),
        program=STOP,
        settings="check_before = /bin/sh -c 'id -un; echo $HOTRELOAD_PROGRAM; exec sleep 60'\n"
        "check_timeout = 1",
    )
    start(house, house.port, 2)
    before = workers(house)
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert "checking was not over in 1 s" in done.stdout
    assert workers(house) == before
    assert not [p for p in house.family() if p.name() == "sleep"]


@pytest.mark.parametrize("how", ["settings", "option"])
def test_brutal(house: House, how: str) -> None:
    settings = "strategy = brutal" if how == "settings" else ""
    house.configure(command=uwsgi(house), program=STOP, settings=settings)
    start(house, house.port, 2)
    pid, before = house.info()["pid"], workers(house)
    house.release("v2")
    words = ["hotreload", "myapp"] if how == "settings" else ["hotreload", "--brutal", "myapp"]
    done = house.ctl(*words)
    assert done.returncode == 0, done.stdout
    assert house.info()["pid"] == pid
    assert not before & workers(house)
    assert get(house.port).startswith(b"v2 ")
    assert "brutally" in house.app_log()


def test_a_strategy_that_it_has_not_is_refused(house: House) -> None:
    house.configure(command=uwsgi(house, "--die-on-term"), program=STOP)
    start(house, house.port, 2)
    before = workers(house)
    for option, words in {
        "--brutal": "with die-on-term that stops it",
        "--strategy=upgrade": "no server with workers",
        "--strategy=chain": "needs lazy-apps",
        "--strategy=magic": "none of",
    }.items():
        done = house.ctl("hotreload", option, "myapp")
        assert done.returncode != 0
        assert words in done.stdout
    assert workers(house) == before


def test_hup_is_a_reload_with_its_check(house: House) -> None:
    house.configure(command=uwsgi(house), program=STOP)
    start(house, house.port, 2)
    house.release("broken", code="import no_such_module")
    house.ctl("signal", "HUP", "myapp")
    info = house.wait_for_outcome()
    assert info["fault"] == 720
    assert get(house.port).startswith(b"v1 ")


def test_a_stop_that_reloads_is_named(house: House) -> None:
    house.configure(command=uwsgi(house), program="stopsignal = TERM\nstopwaitsecs = 1")
    start(house, house.port, 2)
    assert "set stopsignal = INT (or QUIT), or die-on-term" in house.reload().stdout
    house.configure(command=uwsgi(house, "--die-on-term"), program="stopsignal = TERM")
    house.ctl("update")
    house.wait_for("RUNNING")
    wait_until(lambda: len(house.family()) > 2)
    wait_until(lambda: "die-on-term" not in house.reload().stdout)


def test_without_a_master_it_is_refused(house: House) -> None:
    house.configure(command=uwsgi(house).replace("--master ", ""), program=STOP)
    house.start()
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert "only with --master" in done.stdout


def test_a_directory_that_would_load_the_old_code_is_refused(house: House) -> None:
    command = uwsgi(house).replace(f"--chdir {house.root}/current", "")
    house.configure(command=command, program=STOP)
    start(house, house.port, 2)
    before = workers(house)
    house.release("v2")
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert f"--chdir {house.root}/current" in done.stdout
    assert workers(house) == before


# -- hostile input


def configured(command: str, directory: pathlib.Path) -> uwsgi_options.Options:
    return uwsgi_options.options(Program("myapp", command, str(directory)))


def test_options_of_the_command_and_of_ini_files(tmp_path: pathlib.Path) -> None:
    (tmp_path / "app.ini").write_text(
        "[uwsgi]\nmaster = true\nlazy-apps = 1\nstats = %(here)/s.sock\npythonpath = /a\n"
        "pythonpath = /b\nini = more.ini\nchdir = %d\n"
    )
    (tmp_path / "more.ini").write_text("[uwsgi]\nmodule = app:app\nini = app.ini\n")
    found = configured("uwsgi --need-app app.ini --stats=/s -H /venv", tmp_path)
    assert found["pythonpath"][:2] == ["/a", "/b"]
    assert found["module"][0] == "app:app"
    assert found["stats"] == ["/s"]
    assert found["home"] == ["/venv"]
    assert found["chdir"][0] == f"{tmp_path}/"
    assert uwsgi_options.is_on(found, "master")
    assert uwsgi_options.is_on(found, "need-app")


@pytest.mark.parametrize(
    "text",
    [
        "[uwsgi\nx",
        "\0\xff",
        "[uwsgi]\n" + "ini = app.ini\n" * 2000,
        "[uwsgi]\n" + "".join(f"ini = ./{'./' * n}app.ini\n" for n in range(200)),
    ],
)
def test_ini_files_may_hold_anything(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "app.ini").write_text(text, encoding="latin-1")
    began = time.thread_time()
    assert isinstance(configured("uwsgi app.ini", tmp_path), dict)
    assert time.thread_time() - began < 1


@pytest.mark.parametrize(
    "answer",
    [b"", b"{", b"[]", b'{"workers": 3}', b'{"workers": [3, null]}', b"[" * 100000, b"\xff{}"],
)
def test_stats_may_hold_anything(answer: bytes) -> None:
    assert uwsgi_stats.workers_of(answer) in (None, [])


def test_only_the_masters_own_fifo_is_written_to(house: House) -> None:
    """A configured path that leads elsewhere is not the fifo that the master reads."""
    import os

    other = house.root / "other"
    os.mkfifo(other)
    reader = os.open(other, os.O_RDONLY | os.O_NONBLOCK)
    fifo = house.root / "fifo"
    house.configure(
        command=uwsgi(house, f"--lazy-apps --master-fifo {fifo}"),
        program=STOP,
        settings="strategy = chain",
    )
    start(house, house.port, 2)
    fifo.unlink()
    fifo.symlink_to(other)
    house.reload()
    assert os.read(reader, 10) == b""
    os.close(reader)


@pytest.mark.long
def test_a_stats_server_that_is_another_is_not_believed(house: House) -> None:
    """Whoever may write to its directory answers instead: the kernel's word counts."""
    stats = house.root / "stats.sock"
    house.configure(
        command=uwsgi(house, f"--lazy-apps --master-fifo {house.root}/fifo --stats {stats}"),
        program=STOP,
        settings="strategy = chain",
    )
    start(house, house.port, 2)
    wait_until(stats.exists)
    stats.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(stats))
        other.listen()
        printed = house.reload().stdout
    assert "the stats server is asked" in printed
    assert "2/2 workers ready" in printed


ASKING = """
from supervisor_hotreload import request_reload
def ask(environ, start_response):
    if environ["PATH_INFO"] == "/ask":
        request_reload()
    return app(environ, start_response)
"""


@pytest.mark.parametrize("how", ["touch", "uwsgi.reload"])
def test_the_triggers_of_uwsgi_are_the_listeners(house: House, how: str) -> None:
    """touch-reload and uwsgi.reload(), with a trial before and an answer after."""
    listening = Listening(house)
    house.release("v1", code=APP.format(release="v1", boot=0) + ASKING)
    (house.root / "touched").touch()
    house.configure(
        command=uwsgi(house).replace("app:app", "app:ask"),
        program=f"{STOP}\nstdout_capture_maxbytes = 1KB",
        settings=f"{QUICK}touch = {house.root}/touched",
        more=listening.section(),
    )
    start(house, house.port, 2)
    listening.wait_for_listener()
    pid, before = house.info()["pid"], workers(house)
    house.release("v2", code=APP.format(release="v2", boot=0) + ASKING)
    if how == "touch":
        (house.root / "touched").touch()
    else:
        get(house.port, "/ask")
    info = wait_until(lambda: (i := house.reload_info())["generation"] == 2 and i, what=house.log)
    assert info["outcome"] == "succeeded"
    assert get(house.port).startswith(b"v2 ")
    assert house.info()["pid"] == pid
    assert not before & workers(house)


def test_signals_of_the_table_reach_it(house: House) -> None:
    house.configure(command=uwsgi(house), program=STOP)
    start(house, house.port, 2)
    for name in ("USR1", "TSTP", "TSTP"):
        assert house.ctl("signal", name, "myapp").returncode == 0
    wait_until(lambda: "PAUSE" in house.app_log() and "resuming" in house.app_log())
    assert house.info()["statename"] == "RUNNING"
