"""uWSGI keeps its pid; a reload is over when its new workers serve."""

from __future__ import annotations

import json
import os
import pathlib
import pty
import pwd
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from supervisor_hotreload.servers.program import Program
from supervisor_hotreload.servers.uwsgi import chain as uwsgi_chain
from supervisor_hotreload.servers.uwsgi import family
from supervisor_hotreload.servers.uwsgi import options as uwsgi_options
from supervisor_hotreload.servers.uwsgi import stats as uwsgi_stats
from supervisor_hotreload.servers.uwsgi import trial as uwsgi_trial
from supervisor_hotreload.system.credentials import Ids
from supervisor_hotreload.system.process import Process
from supervisor_hotreload.system.world import World
from tests.harness.choosing import mostly_slow
from tests.harness.house import APP, House
from tests.harness.listening import QUICK, Listening
from tests.harness.load import Load, get
from tests.harness.otherservers import program, start, uwsgi
from tests.harness.processes import parent
from tests.harness.waiting import free_port, wait_until

STOP = "stopsignal = INT"

NOBODY = pwd.getpwnam("nobody").pw_uid

OWN = Ids.of_user(os.getuid())


def workers(house: House) -> set[int]:
    master = house.info()["pid"]
    return {p.pid for p in house.family() if parent(p) == master}


LAYOUTS = {
    "graceful": [],
    "graceful-lazy": ["--lazy-apps"],
    "graceful-stats": ["--stats", "stats.sock"],
    "graceful-lazy-stats": ["--lazy-apps", "--stats", "stats.sock"],
}


@pytest.mark.parametrize("layout", mostly_slow(LAYOUTS, ["graceful", "graceful-lazy-stats"]))
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
        longest = load.patient
    assert load.dropped == []
    assert longest < 0.3  # the import takes 0.4 s, nobody waits for it
    assert house.info()["pid"] == pid
    assert not before & workers(house)
    progress = [line["text"] for line in house.reload_info()["log"]]
    assert any("1/3 workers" in text or "2/3 workers" in text for text in progress), done.stdout


@pytest.mark.parametrize("http", ["--http", "--http =0 --shared-socket"])
@pytest.mark.parametrize("strategy", ["graceful", "chain"])
def test_a_router_is_no_worker(house: House, strategy: str, http: str) -> None:
    more = f"--lazy-apps --master-fifo {house.root}/fifo --pythonpath {house.root}/current"
    command = uwsgi(house, more).replace("--http-socket", http)
    house.configure(command=command, program=STOP, settings=f"strategy = {strategy}")
    start(house, house.port, 3)
    house.release("v2", boot=0.4)
    printed = house.reload().stdout
    assert "there are 2" in printed
    assert "2/2 workers ready" in printed
    assert {get(house.port).split()[0] for _ in range(6)} == {b"v2"}


@pytest.mark.parametrize("strategy", mostly_slow(["graceful", "chain", "auto"], ["chain", "auto"]))
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


@pytest.mark.parametrize("lazy", ["", "--lazy-apps"])
def test_code_that_breaks_only_inside_is_told_by_what_uwsgi_prints(house: House, lazy: str) -> None:
    house.configure(
        command=uwsgi(house, lazy), program=STOP, settings="check_before = none\nbake = 0"
    )
    start(house, house.port, 2)
    house.release("broken", code="import no_such_module")
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert "uWSGI says: unable to load app 0" in done.stdout
    house.release("v2")
    house.reload()
    assert get(house.port).startswith(b"v2 ")


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
    assert "timed out after 1 s (check_timeout) waiting for check_before (" in done.stdout
    assert " | myapp)" in done.stdout
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
        "--brutal --strategy graceful": "a reload has one strategy: brutal and graceful clash",
        "--strategy=upgrade": "its server is uwsgi (graceful, chain, brutal); nothing was sent",
        "--strategy=chain": "needs lazy-apps",
        "--strategy=magic": "none of",
    }.items():
        done = house.ctl("hotreload", option, "myapp")
        assert done.returncode != 0
        assert words in done.stdout
    assert workers(house) == before


def test_a_hook_that_ends_it_is_like_die_on_term(house: House) -> None:
    hooks = "hook-master-start = unix_signal:{} gracefully_kill_them_all\n"
    house.configure(command=write_ini(house, hooks.format(15)), program="stopsignal = TERM")
    start(house, house.port, 2)
    before = workers(house)
    done = house.ctl("hotreload", "--brutal", "myapp")
    assert done.returncode != 0
    assert "with hook-master-start = unix_signal:15 gracefully_kill_them_all that stops it" in (
        done.stdout
    )
    assert workers(house) == before
    assert "'supervisorctl stop' sends TERM" not in house.reload().stdout
    assert house.ctl("stop", "myapp").returncode == 0
    assert house.info()["statename"] == "STOPPED"
    write_ini(house, hooks.format(1))
    house.ctl("start", "myapp")
    wait_until(lambda: len(house.family()) > 2)
    before = workers(house)
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert "strategy = graceful sends HUP, and with hook-master-start" in done.stdout
    assert workers(house) == before


def test_hup_is_a_reload_with_its_check(house: House) -> None:
    house.configure(command=uwsgi(house), program=STOP)
    start(house, house.port, 2)
    house.release("broken", code="import no_such_module")
    house.ctl("signal", "HUP", "myapp")
    info = house.wait_for_outcome()
    assert info["fault"] == 720
    assert get(house.port).startswith(b"v1 ")


def test_words_that_go_elsewhere_are_named(house: House) -> None:
    house.configure(command=uwsgi(house, f"--logto {house.root}/uwsgi.log"), program=STOP)
    start(house, house.port, 2)
    assert "uWSGI's output goes elsewhere (logto)" in house.reload().stdout


def test_ready_by_tcp(house: House) -> None:
    """uWSGI's sockets take a connection only once there is something to read."""
    house.configure(
        command=uwsgi(house),
        program=STOP,
        settings=f"ready = tcp://127.0.0.1:{house.port}\nready_timeout = 12",
    )
    start(house, house.port, 2)
    house.release("v2")
    house.reload()
    assert get(house.port).startswith(b"v2 ")


def test_die_on_term_makes_quit_a_reload(house: House) -> None:
    command = uwsgi(house, "--die-on-term")
    house.configure(command=command, program="stopsignal = QUIT\nstopwaitsecs = 1")
    start(house, house.port, 2)
    printed = house.reload().stdout
    assert (
        "stop' sends QUIT, which makes uWSGI reload instead of stop: set stopsignal = INT"
        in printed
    )


def test_a_stop_that_reloads_is_named(house: House) -> None:
    house.configure(command=uwsgi(house), program="stopsignal = TERM\nstopwaitsecs = 1")
    start(house, house.port, 2)
    assert "set stopsignal = INT (or QUIT), or die-on-term with TERM" in house.reload().stdout
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


INI = """[uwsgi]
base = {root}
chdir = %(base)/current
module = app:app
master = true
processes = 2
http-socket = 127.0.0.1:{port}
disable-logging = true
"""


def write_ini(house: House, more: str = "", text: str = INI) -> str:
    """Write an ini file and return the command that takes it."""
    path = house.root / "app.ini"
    path.write_text(text.format(root=house.root, port=house.port) + more)
    return f"{program('uwsgi', 'pip install uwsgi')} {path}"


def test_an_ini_file_with_placeholders(house: House) -> None:
    house.configure(command=write_ini(house), program=STOP)
    start(house, house.port, 2)
    house.release("broken", code="import no_such_module")
    refused = house.ctl("hotreload", "myapp")
    assert refused.returncode != 0
    assert "check_before (import of app:app" in refused.stdout
    house.release("v2")
    house.reload()
    assert get(house.port).startswith(b"v2 ")


def test_a_release_that_cannot_be_tried_is_named(house: House) -> None:
    script = uwsgi(house, "--lazy-apps", f"--master-fifo {house.root}/fifo", "$MORE")
    house.configure(command=f"sh -c 'exec {script}'", program=STOP)
    start(house, house.port, 2)
    printed = house.reload().stdout
    assert "warning: myapp: the release is not tried before the reload: " in printed
    assert "set check_before = COMMAND" in printed
    house.configure(
        command=f"sh -c 'exec {script}'",
        program=STOP,
        settings="check_before = none\nstrategy = chain",
    )
    printed = house.reload().stdout
    assert "not tried" not in printed
    assert "chain" in printed


def test_an_application_that_changes_its_directory_is_reloaded(house: House) -> None:
    code = APP.format(release="{}", boot=0) + "os.chdir('/tmp')\n"
    house.release("v1", code=code.replace("{}", "v1", 1))
    command = uwsgi(house).replace(f"--chdir {house.root}/current", "")
    house.configure(command=command, program=STOP)
    start(house, house.port, 2)
    done = house.reload()
    assert "unless the application has changed there itself" in done.stdout


def test_an_emperor_is_refused(house: House) -> None:
    vassals = house.root / "vassals"
    vassals.mkdir()
    text = INI.replace("{port}", "0")
    for name in ("one", "two"):
        (vassals / f"{name}.ini").write_text(text.format(root=house.root))
    binary = program("uwsgi", "pip install uwsgi")
    commands = {
        "is an Emperor": f"{binary} --emperor {vassals} --die-on-term",
        "has other masters": f"sh -c 'exec {binary} --emperor $VASSALS --die-on-term'",
    }
    house.environment["VASSALS"] = str(vassals)
    for words, command in commands.items():
        house.configure(command=command, program=STOP)
        house.start("") if words == "is an Emperor" else house.ctl("update")
        wait_until(lambda: len(house.family()) >= 7, what=lambda: house.story("lacks vassals"))
        house.wait_for("RUNNING")
        done = wait_until(
            lambda: "no uWSGI" not in (d := house.ctl("hotreload", "myapp")).stdout and d
        )
        assert done.returncode != 0
        assert "touch the vassal's own ini file" in done.stdout


IMPORTS = {
    "decorators": "from uwsgidecorators import timer\n@timer(30)\ndef f(n): pass",
    "numbers": "import uwsgi\n[1][uwsgi.worker_id()]\nint(uwsgi.mule_id())\nlen(uwsgi.workers())",
    "iteration": "import uwsgi\n[worker['pid'] for worker in uwsgi.workers()]",
    "options": "import uwsgi\nassert uwsgi.opt['module'] == b'app:app', uwsgi.opt",
    "threads": "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()",
    "arguments": "import argparse\np = argparse.ArgumentParser()\n"
    "p.add_argument('--conf')\nassert p.parse_args().conf == 'x'",
    "words": "import sys\nassert sys.argv == ['uwsgi', '--conf', 'x'], sys.argv",
    "comparisons": "import uwsgi\nassert uwsgi.numproc == int(uwsgi.opt['processes']) > 1",
    "arithmetic": "import uwsgi\nassert 8 / uwsgi.cores == 8 and uwsgi.mule_id() < 1\n"
    "b'a' + uwsgi.version",
    "paths": "import inlibs",
    "environment": "import inpath, os\nassert os.environ['DJANGO_SETTINGS_MODULE'] == 'mysite'",
}


def libraries(root: pathlib.Path) -> dict[str, str]:
    """Write modules that --pythonpath and PYTHONPATH find; return the environment for it."""
    for name in ("libs/one/inlibs.py", "more/inpath.py"):
        (root / name).parent.mkdir(parents=True)
        (root / name).touch()
    return {"DJANGO_SETTINGS_MODULE": "mysite", "PYTHONPATH": f"{root}/more"}


def tried(
    folder: pathlib.Path, code: str, app: str = "app:app", kind: str = "module"
) -> subprocess.CompletedProcess[str]:
    """Let the trial import an application."""
    (folder / "app.py").write_text(f"{code}\napp = 1\n")
    given = libraries(folder)
    trial = {
        "apps": [(kind, app)],
        "callable": "application",
        "directory": str(folder),
        "paths": [f"{folder}/libs/*"],
        "arguments": ["--conf", "x"],
        "options": {"module": ["app:app"], "master": [""], "processes": ["4"]},
    }
    return subprocess.run(
        [sys.executable, "-c", uwsgi_trial.TRY_IMPORT],
        env={**os.environ, **given, "HOTRELOAD_TRIAL": json.dumps(trial)},
        capture_output=True,
        text=True,
        timeout=30,
        cwd="/",
    )


@pytest.mark.parametrize("what", IMPORTS)
def test_the_trial_takes_good_applications(tmp_path: pathlib.Path, what: str) -> None:
    done = tried(tmp_path, IMPORTS[what])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("app", "good"),
    [
        ("app:make()", True),
        ("app:broken()", False),
        ("app:absent()", False),
        ("app:broken", True),
        ("app", False),
        ("many", True),
    ],
)
def test_the_trial_calls_a_factory(tmp_path: pathlib.Path, app: str, good: bool) -> None:
    (tmp_path / "many.py").write_text("applications = {'/': print}\n")
    done = tried(tmp_path, "def make(): return print\ndef broken(): raise ValueError('no')", app)
    assert (done.returncode == 0) == good, done.stderr
    assert ("ValueError: no" in done.stderr) == (app == "app:broken()")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import sys; sys.exit('bye')", "bye"),
        ("import sys; sys.exit(0)", ""),
        ("def f(:", "SyntaxError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_the_trial_shows_what_is_wrong(tmp_path: pathlib.Path, code: str, words: str) -> None:
    done = tried(tmp_path, code)
    assert done.returncode == 1
    assert words in done.stderr


def test_options_of_uwsgi_hold_for_the_trial(house: House) -> None:
    code = "".join(f"{text}\n" for what, text in IMPORTS.items() if what != "threads")
    code += APP.format(release="v1", boot=0)
    house.release("v1", code=code)
    house.configure(
        command=uwsgi(
            house,
            f"--enable-threads --pythonpath '{house.root}/libs/*' --pyargv '--conf x'",
            *(f"--env {key}={value}" for key, value in libraries(house.root).items()),
        ),
        program=STOP,
    )
    start(house, house.port, 2)
    house.reload()


FACTORY = APP.replace("def app", "def inner").replace("{boot}", "0").replace("{release!r}", "'%s'")
FACTORY += "def make():\n    %s\n    return inner\n"


@pytest.mark.parametrize("how", ["--module app:make()", "--mount /=app:make()"])
def test_a_broken_factory_is_refused(house: House, how: str) -> None:
    house.release("v1", code=FACTORY.format() % ("v1", ""))
    house.configure(
        command=uwsgi(house, "--manage-script-name").replace("--module app:app", how),
        program=STOP,
    )
    start(house, house.port, 2)
    before = workers(house)
    house.release("v2", code=FACTORY.format() % ("v2", "raise ValueError('no database')"))
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert "ValueError: no database" in done.stdout
    assert workers(house) == before
    house.release("v3", code=FACTORY.format() % ("v3", ""))
    house.reload()
    assert get(house.port).startswith(b"v3 ")


def test_a_uwsgi_without_an_application_is_reloaded(house: House) -> None:
    """It serves files only: that its workers have no application is no fault."""
    (house.root / "page").write_text("v1 page")
    command = uwsgi(house, f"--check-static {house.root} --stats 127.0.0.1:{free_port()}")
    house.configure(command=command.replace("--module app:app", ""), program=STOP)
    house.start()
    wait_until(lambda: len(house.family()) > 2)
    printed = house.reload().stdout
    assert "the master was asked" in printed  # after the stats server
    assert "its options name neither a module, nor a wsgi-file" in printed


def test_more_workers_may_load_their_application_still(house: House) -> None:
    slow = "import uwsgi\nif uwsgi.worker_id() > 1: time.sleep(3)\n"
    more = f"lazy-apps = 1\nstats = {house.root}/stats.sock\n"
    command = write_ini(house, more)
    text = (house.root / "app.ini").read_text()
    (house.root / "app.ini").write_text(text.replace("processes = 2", "processes = 1"))
    house.configure(command=command, program=STOP, settings="check_before = none")
    start(house, house.port, 1)
    house.release("v2", code=APP.format(release="v2", boot=0) + slow)
    (house.root / "app.ini").write_text(text.replace("processes = 2", "processes = 3"))
    house.reload()


@pytest.mark.parametrize("what", ["owner", "symlink"])
def test_a_file_of_others_is_not_touched(house: House, what: str) -> None:
    touched = house.root / "reload"
    if what == "owner":
        touched.touch()
        os.chown(touched, 65534, 65534)
    else:
        touched.symlink_to(house.root / "supervisord.conf")
    more = f"--lazy-apps --touch-chain-reload {touched} --pythonpath {house.root}/current"
    command = uwsgi(house, more).replace(f"--chdir {house.root}/current", "")
    house.configure(command=command, program=STOP)
    start(house, house.port, 2)
    before = workers(house)
    done = house.ctl("hotreload", "--strategy=chain", "myapp")
    assert done.returncode != 0
    assert "no regular file of the program's user" in done.stdout
    assert "checking" not in done.stdout
    assert workers(house) == before
    printed = house.reload().stdout
    assert "strategy = graceful" in printed
    assert f"a chain reload cannot be asked for by {touched}" in printed


RELATIVE = """
lazy-apps = 1
pythonpath = %(base)/current
touch-chain-reload = reload
touch-chain-reload = missing
stats = stats.sock
"""


def test_relative_paths_are_where_uwsgi_looks_for_them(house: House) -> None:
    """uWSGI takes them where it has changed to, and any one of the files."""
    folder = house.root / "elsewhere"
    folder.mkdir()
    (folder / "reload").touch()
    command = write_ini(house, RELATIVE, INI.replace("%(base)/current", "%(base)/elsewhere"))
    house.configure(command=command, program=STOP)
    start(house, house.port, 2)
    house.release("v2")
    printed = house.reload().stdout
    assert "strategy = chain" in printed
    assert "the master was asked" in printed  # after the stats server
    assert {get(house.port).split()[0] for _ in range(6)} == {b"v2"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root has other users' programs")
def test_a_file_of_roots_is_touched_for_another_users_program(house: House) -> None:
    touched = house.root / "reload"
    touched.touch()
    more = f"--lazy-apps --uid nobody --drop-after-init --touch-chain-reload {touched}"
    command = uwsgi(house, more, f"--check-static {house.root}")
    house.configure(command=command.replace("--module app:app", ""), program=STOP)
    house.start()  # it has no application: its user may not see this interpreter's modules
    wait_until(lambda: len(house.family()) > 2)
    wait_until(lambda: psutil.Process(house.info()["pid"]).uids().real == NOBODY)
    before = workers(house)
    assert "strategy = chain" in house.reload().stdout
    assert not before & workers(house)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize(
    ("owner", "folder", "mode", "good"),
    [
        (NOBODY, NOBODY, 0o755, True),
        (0, 0, 0o755, True),
        (0, NOBODY, 0o755, False),
        (0, 0, 0o775, False),
        (0, 0, 0o1777, False),
        (NOBODY + 1, 0, 0o755, False),
    ],
)
def test_whose_file_may_be_touched(
    tmp_path: pathlib.Path, owner: int, folder: int, mode: int, good: bool
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    path = place / "reload"
    path.touch()
    os.utime(path, (0, 0))
    os.chown(path, owner, 0)
    os.chown(place, folder, 0)
    place.chmod(mode)
    if good:
        uwsgi_chain.touch(str(path), Ids.of_user(NOBODY), may_be_roots=True)
    else:
        with pytest.raises(OSError, match="no regular file of the program's user"):
            uwsgi_chain.touch(str(path), Ids.of_user(NOBODY), may_be_roots=True)
    assert (path.stat().st_mtime > 0) == good


def generation_of(options: uwsgi_options.UwsgiOptions) -> tuple[World, family.UwsgiGeneration]:
    """Return a generation whose master is this process."""
    world = World()
    own = world.lookup(os.getpid())
    assert own is not None
    nobody: frozenset[Process] = frozenset()
    return world, family.UwsgiGeneration(own, own, 0, True, nobody, nobody, options=options)


def test_any_file_that_can_be_touched_will_do(tmp_path: pathlib.Path) -> None:
    names = ["missing", "folder", "first", "second"]
    (tmp_path / "folder").mkdir()
    values = {
        "lazy-apps": ["1"],
        "chdir": [os.getcwd()],
        "touch-chain-reload": [f"{tmp_path}/{name}" for name in names],
    }
    found = uwsgi_options.UwsgiOptions(str(tmp_path), values=values, rights=OWN)
    world, old = generation_of(found)
    configured = Program("myapp", "uwsgi", str(tmp_path))

    def chain_warnings() -> list[str]:
        lines = family.FAMILY.warnings(world, old, configured)
        return [line for line in lines if "chain reload cannot" in line]

    assert family.FAMILY.best_strategy(world, old, configured) == "graceful"
    (warning,) = chain_warnings()
    assert all(f"{tmp_path}/{name}: " in warning for name in names)
    (tmp_path / "first").touch()
    (tmp_path / "second").touch()
    assert family.FAMILY.best_strategy(world, old, configured) == "chain"
    assert not chain_warnings()


READY = """
import os, socket
def say(text, name):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
        speaker.sendto(text, name.replace("@", "\\0", 1))
if "NOTIFY_SOCKET" in os.environ:  # a trial has none
    say(b"READY=1", os.environ["NOTIFY_SOCKET"])
"""


def test_with_notify_a_worker_of_the_application_has_to_say_it(house: House) -> None:
    house.release("v1", code=APP.format(release="v1", boot=0) + READY)
    house.configure(command=uwsgi(house, "--lazy-apps"), program=STOP, settings="ready = notify")
    start(house, house.port, 2)
    house.release("v2", code=APP.format(release="v2", boot=0) + READY)
    printed = house.reload().stdout
    assert "warning: ready = notify, as it is set: uWSGI says READY=1 when it is started" in printed
    assert get(house.port).startswith(b"v2 ")


def test_a_chain_reload_of_what_is_paused_is_refused(house: House) -> None:
    more = f"--lazy-apps --master-fifo {house.root}/fifo --stats {house.root}/stats.sock"
    house.configure(command=uwsgi(house, more), program=STOP, settings="strategy = chain")
    start(house, house.port, 2)
    before = workers(house)
    assert house.ctl("signal", "TSTP", "myapp").returncode == 0
    wait_until(lambda: "PAUSE" in house.app_log())
    done = house.ctl("hotreload", "myapp")
    assert done.returncode != 0
    assert "resume it with 'supervisorctl signal TSTP myapp'" in done.stdout
    assert "its workers are the old ones" in done.stdout
    assert workers(house) == before
    assert house.ctl("signal", "TSTP", "myapp").returncode == 0
    wait_until(lambda: "resuming" in house.app_log())
    house.reload()
    assert not before & workers(house)


# -- what is configured


@pytest.mark.parametrize(
    ("settings", "name", "called"),
    [
        ("", "HUP", "grace_them_all"),
        ("", "TERM", "reap_them_all"),
        ("die-on-term = 1", "TERM", "kill_them_all"),
        ("hook-master-start = unix_signal:15 kill_them_all", "TERM", "kill_them_all"),
        ("hook-master-start = !unix_signal:15 grace_them_all\ndie-on-term = 1", "TERM", "grace_"),
        (
            "hook-master-start = unix_signal:15 gracefully_kill_them_all\n"
            "hook-master-start = print:unix_signal:15 reap_them_all\n"
            "hook-master-start = unix_signal:1 reap_them_all",
            "TERM",
            "gracefully_kill_them_all",
        ),
        (
            "hook-master-start = unix_signal:1 stats\n"
            "hook-master-start = unix_signal:1 reap_them_all",
            "HUP",
            "reap_them_all",
        ),
        ("if-env = X\nhook-master-start = unix_signal:15 stats\nendif =", "TERM", ""),
    ],
)
def test_the_last_hook_handles_a_signal(
    tmp_path: pathlib.Path, settings: str, name: str, called: str
) -> None:
    (tmp_path / "app.ini").write_text(f"[uwsgi]\n{settings}\n")
    seen, _ = family.handler(configured("uwsgi app.ini", tmp_path), name)
    assert seen.startswith(called)
    assert bool(seen) == bool(called)


def test_where_routers_accept(tmp_path: pathlib.Path) -> None:
    (tmp_path / "app.ini").write_text(
        "[uwsgi]\nshared-socket = 127.0.0.1:4096\nundeferred-shared-socket = /run/a.sock\n"
        "http = =0\nhttps = =1,crt,key\nhttp = :8192\nhttprouter = [::1]:8193\n"
        "https2 = cert=c,addr==7,key=k\nhttps2 = key=k,addr=:8194,cert=c\n"
        "fastrouter = fr.sock\nhttp-to-https = 0.0.0.0:8195\nrawrouter = :x\n"
        "http-socket = :8196\nhttp11-socket = :8197\nsocket = =0\nhttp-to = 127.0.0.1:8198\n"
    )
    found = family.router_addresses(configured("uwsgi app.ini", tmp_path))
    assert found >= {"1000", "/run/a.sock", "2000", "2001", "2002", "fr.sock", "2003"}
    assert not found & {"2004", "2005", "2006"}


def test_paths_before_and_after_chdir(tmp_path: pathlib.Path) -> None:
    (tmp_path / "app.ini").write_text(
        "[uwsgi]\nchdir = app\nchdir2 = other\npidfile = a.pid\ntouch-chain-reload = t\n"
        "touch-chain-reload = /t\nhome = venv\n"
    )
    found = configured("uwsgi app.ini", tmp_path)
    assert found.path("chdir") == f"{tmp_path}/app"
    assert found.path("pidfile") == f"{tmp_path}/a.pid"
    assert found.path("home") == f"{tmp_path}/app/venv"
    assert found.paths("touch-chain-reload") == [f"{tmp_path}/app/t", "/t"]
    assert found.paths("touch-chain-reload", "/x") == ["/x/t", "/t"]
    found.unknown.add("chdir")
    assert found.paths("touch-chain-reload") == ["/t"]
    assert found.path("home") is None


def answer_once(listener: socket.socket, answer: bytes) -> None:
    accepted, _ = listener.accept()
    with accepted:
        accepted.sendall(answer)


def test_a_long_answer_of_a_stats_server_is_read(tmp_path: pathlib.Path) -> None:
    """250 threads of 4 workers take 250 KB."""
    answer = json.dumps({"workers": [{"pid": 1, "cores": "x" * (1 << 20)}]}).encode()
    world, old = generation_of(uwsgi_options.UwsgiOptions("/"))
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor() as pool:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        pool.submit(answer_once, listener, answer)
        stats = uwsgi_stats.Stats(world, old.master, str(tmp_path / "s"))
        found = wait_until(stats.look)
    assert found[0]["pid"] == 1


# -- hostile input


def configured(command: str, directory: pathlib.Path) -> uwsgi_options.UwsgiOptions:
    return uwsgi_options.options(Program("myapp", command, str(directory), rights=OWN))


def test_options_of_the_command_and_of_ini_files(tmp_path: pathlib.Path) -> None:
    (tmp_path / "app.ini").write_text(
        "[uwsgi]\nmaster = true\nlazy-apps = 1\nstats = %(here)/s.sock\npythonpath = /a\n"
        "pythonpath = /b\nini = more.ini\nini = :more\nchdir = %d\n[more]\ncallable = app\n"
    )
    (tmp_path / "more.ini").write_text("[uwsgi]\nmodule = app:app\nini = app.ini\n")
    found = configured("uwsgi --need-app app.ini --stats=/s -H /venv", tmp_path)
    assert found.all("pythonpath") == ["/a", "/b"]
    assert found.last("module") == "app:app"
    assert found.last("callable") == "app"
    assert found.all("stats") == ["/s"]
    assert found.why_unknown("stats")
    assert not found.why_unknown("module", "chdir")
    assert found.last("home") == "/venv"
    assert found.last("chdir") == f"{tmp_path}/"
    assert found.on("master")
    assert found.on("need-app")


def test_placeholders_are_replaced_as_uwsgi_does(tmp_path: pathlib.Path) -> None:
    (tmp_path / "my.app.ini").write_text(
        "[uwsgi]\nbase = %d\nname = %n\nhome = %(base)$(VENV)\nmodule = %(name):app\n"
        "chdir = %(base)$(NO_SUCH_VARIABLE)\nenv = A=50%%\nstats = %h.sock\n"
        "if-env = X\nlazy-apps = 1\nendif =\nmaster = 1\n"
    )
    given = {"VENV": "venv"}
    configuration = Program("myapp", "uwsgi my.app.ini", str(tmp_path), given, rights=OWN)
    found = uwsgi_options.options(configuration)
    assert found.last("home") == f"{tmp_path}/venv"
    assert found.last("module") == "my.app:app"
    assert found.last("env") == "A=50%"
    assert found.on("master")
    assert not found.on("lazy-apps")
    assert found.unknown >= {"chdir", "stats", "lazy-apps"}
    assert "chdir" in found.why_unknown("chdir", "module")


@pytest.mark.parametrize(
    "command",
    [
        "uwsgi app.ini",
        "/venv/bin/uwsgi --log-master app.ini",
        "uwsgi --log-master --ini app.ini --honour-stdin",
        "uwsgi --of-a-plugin app.ini",
        "uwsgi --of-a-plugin --thunder-lock app.ini",
        "uwsgi --master --listen -1 --static-map /x=/y.json --http-socket 127.0.0.1:80 app.ini",
        "uwsgi --if-exists no.ini --endif --php-ini no.ini --procname -M app.ini",
        "uwsgi --env CONFIG=/no/such.json --touch-reload no.ini --logto2 a.yml -S x=a.xml app.ini",
        "uwsgi_python3 -M app.ini",
        "sh -c 'exec uwsgi app.ini'",
        "bash -lc 'set -e; cd . && export A=b; C=d exec /venv/bin/uwsgi app.ini'",
        "env A=b nice -n 5 uwsgi app.ini",
        "newrelic-admin run-program uwsgi app.ini",
        "python3 /venv/bin/uwsgi app.ini",
    ],
)
def test_options_are_read_behind_plain_wrappers(tmp_path: pathlib.Path, command: str) -> None:
    (tmp_path / "app.ini").write_text("[uwsgi]\nmaster = true\nmodule = app:app\n")
    found = configured(command, tmp_path)
    assert found.on("master")
    assert found.last("module") == "app:app"
    assert found.why_unknown("module") == ""


@pytest.mark.parametrize(
    ("command", "module", "file", "called"),
    [
        ("uwsgi --thunder-lock app.py:make", None, "app.py", "make"),
        ("uwsgi --of-a-plugin --need-app app.wsgi", None, "app.wsgi", None),
        ("uwsgi --enable-threads pkg.app:make", "pkg.app:make", None, None),
        ("uwsgi --pyimport no.py --uwsgi-socket host.local:80 -w app:app", "app:app", None, None),
        ("uwsgi --touch-reload no.py --env no.module:x --die-on-term app.py", None, "app.py", None),
    ],
)
def test_a_word_that_stands_for_itself_is_no_value(
    tmp_path: pathlib.Path, command: str, module: str, file: str, called: str
) -> None:
    found = configured(command, tmp_path)
    assert found.last("module") == module
    assert found.last("wsgi-file") == file
    assert found.last("callable") == called
    assert found.on("die-on-term") == ("die-on-term" in command)


@pytest.mark.parametrize(
    "command",
    [
        "uwsgi app.yaml",
        "uwsgi --xml app.xml",
        "uwsgi --ini $(FILE)",
        "uwsgi missing.ini",
        "uwsgi --ini .",
        "sh -c 'exec uwsgi $OPTIONS'",
        "sh -c 'migrate && exec uwsgi app.ini'",
    ],
)
def test_options_that_cannot_be_told_are_known_to_be_so(
    tmp_path: pathlib.Path, command: str
) -> None:
    found = configured(command, tmp_path)
    assert family.FAMILY.is_named_in(Program("myapp", command, str(tmp_path)))
    assert found.why_unknown("master")
    assert "master" not in found


@pytest.mark.parametrize(
    "command",
    ["uwsgi_exporter --x", "tail -f uwsgi.log", "sh -c 'tail -f uwsgi'", "python uwsgi_watch.py"],
)
def test_what_is_only_called_alike_is_no_uwsgi(command: str) -> None:
    assert not family.FAMILY.is_named_in(Program("myapp", command, "/"))


@pytest.mark.parametrize(
    "settings", ["ini = :more\n", "ini = .\n", "ini = /dev/tty\n", "ini = fifo\n"]
)
def test_ini_files_leave_no_descriptor(tmp_path: pathlib.Path, settings: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "app.ini").write_text(f"[uwsgi]\n{settings}")
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        configured("uwsgi app.ini", tmp_path)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_terminal_named_as_an_ini_file_is_never_opened(tmp_path: pathlib.Path) -> None:
    """A leader of a session without one would get it as its controlling terminal."""
    master, slave = pty.openpty()
    (tmp_path / "app.ini").symlink_to(os.ttyname(slave))
    code = (
        "import os, sys; os.setsid()\n"
        "from supervisor_hotreload.servers import program as f\n"
        "from supervisor_hotreload.servers.uwsgi import options as o\n"
        "from supervisor_hotreload.system.credentials import Ids\n"
        "own = Ids.of_user(os.getuid())\n"
        "o.options(f.Program('myapp', 'uwsgi app.ini', sys.argv[1], rights=own))\n"
        "os.open('/dev/tty', os.O_RDWR)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=30
    )
    os.close(master)
    os.close(slave)
    assert "No such device or address: '/dev/tty'" in done.stderr


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
    assert configured("uwsgi app.ini", tmp_path).directory
    assert time.thread_time() - began < 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{",
        b"[]",
        b'{"workers": 3}',
        b'{"workers": [3, null, {"pid": []}]}',
        b"[" * 100000,
        b"\xff{}",
    ],
)
def test_stats_may_hold_anything(answer: bytes) -> None:
    assert uwsgi_stats.workers_of(answer) in (None, [])


def test_a_stats_server_is_never_looked_up_by_name() -> None:
    hosts = {
        "127.x.attacker.example": None,
        "attacker.example": None,
        "10.0.0.1": None,
        "127.0.0.2": "127.0.0.2",
        "[::1]": "::1",
        "localhost": "127.0.0.1",
        "": "127.0.0.1",
    }
    assert {host: uwsgi_stats.loopback(host) for host in hosts} == hosts


def test_only_the_masters_own_fifo_is_written_to(house: House) -> None:
    """A configured path that leads elsewhere is not the fifo that the master reads."""
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


LEAK = """
with open("/proc/self/environ") as given, open({leak!r}, "a") as leak:
    leak.write(given.read())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root has secrets from other users")
@pytest.mark.parametrize("where", ["in root's file", "in its own", "in a hook"])
def test_nothing_secret_is_read_or_told(house: House, where: str) -> None:
    """Its ini file may name any other file, and its code has to know only what is imported."""
    secret, leak = house.root / "root.cnf", house.root / "leak"
    secret.write_text("[client]\npassword = hunter2\ntouch-chain-reload = /hunter2\n")
    secret.chmod(0o600)
    leak.touch()
    leak.chmod(0o666)
    code = APP.format(release="v1", boot=0)
    house.release("v1", code=code)
    house.configure(
        command=write_ini(house),
        program=f"{STOP}\nuser = nobody",
        settings="check_before = default",
    )
    start(house, house.port, 2)
    ini = house.root / "app.ini"
    more = {
        "in root's file": f"ini = {secret}:client\n",
        "in a hook": "hook-master-start = unix_signal:1 hunter2\n",
        "in its own": "set-placeholder = password=hunter2\n",
    }[where]
    ini.write_text(ini.read_text() + more)
    house.release("v2", code=LEAK.format(leak=str(leak)) + code)
    done = house.ctl("hotreload", "myapp")
    given = leak.read_text()
    assert ("HOTRELOAD_TRIAL" in given) == (where == "in its own"), done.stdout
    assert ("does not say what to try" in done.stdout) == (where == "in root's file")
    known = (done.stdout, done.stderr, house.log(), str(house.reload_info()), given)
    assert not [text for text in known if "hunter2" in text]
