"""The main job: a real supervisord, a real gunicorn, real requests."""

from __future__ import annotations

import pytest

from tests.house import House, wait_until
from tests.load import Load, get

LAYOUTS = {
    "plain": ("--workers 2",),
    "pid": ("--workers 2 --pid %(here)s/app.pid",),
    "preload": ("--workers 3 --preload",),
    "one-worker": ("--workers 1",),
    "gthread": ("--workers 2 --worker-class gthread --threads 4",),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_request_is_dropped(house: House, layout: str) -> None:
    house.configure(*LAYOUTS[layout])
    house.start()
    with Load(house.port) as load:
        for release in ("v2", "v3"):
            house.release(release, boot=0.5)
            load.wait_in_flight()
            done = house.reload()
            seen = load.releases[release]
            wait_until(lambda: load.releases[release] > seen, what=f"{release} answers")
    assert load.dropped == []
    assert set(load.releases) == {"v1", "v2", "v3"}
    assert get(house.port).startswith(b"v3 ")
    assert f"pid {house.info()['pid']}" in done.stdout
    assert [m.pid for m in house.masters()] == [house.info()["pid"]]
