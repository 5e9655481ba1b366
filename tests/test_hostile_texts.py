"""Whatever the kernel tells of a hostile process, and whatever a file of one holds, is read
without an exception, and nothing is made of what is torn."""

from __future__ import annotations

import json
import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor_hotreload.plugin.record import proofs_in
from supervisor_hotreload.system.credentials import read_ids
from supervisor_hotreload.system.process import boot_id, read_environment, read_stat

EXAMPLES = int(os.environ.get("HOTRELOAD_EXAMPLES", "300"))
"""How many examples each parser is given; make faults gives 100,000."""

many = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

NUMBERS = " ".join(map(str, range(1, 52)))


@many
@given(name=st.binary(max_size=15), rest=st.one_of(st.binary(), st.just(NUMBERS.encode())))
def test_stat(name: bytes, rest: bytes) -> None:
    """A name may hold parentheses, spaces and line feeds."""
    found = read_stat(7, b"7 (" + name + b") S " + rest)
    if rest == NUMBERS.encode() and found is not None:
        assert (found.parent, found.process.start) == (1, 19)
    read_stat(7, rest)


@many
@given(st.lists(st.one_of(st.binary(max_size=40), st.just(b"Uid:\t1\t1\t1\t1\n"))))
def test_status(lines: list[bytes]) -> None:
    found = read_ids([*lines, b"Gid:\t2\t2\t2\t2\n", b"Groups:\t3 4\n"])
    if found is not None:
        assert len(found.users) == len(found.groups) == 4


@many
@given(name=st.text(st.characters(exclude_characters="\n"), max_size=15))
def test_the_name_of_a_process_says_nothing_of_its_user(name: str) -> None:
    lines = [f"Name:\t{name}\n".encode("utf-8", "replace"), b"Uid:\t1\t2\t3\t4\n"]
    found = read_ids([*lines, b"Gid:\t5\t5\t5\t5\n"])
    assert found is not None
    assert found.users == (1, 2, 3, 4)
    assert found.user is None


@many
@given(st.binary())
def test_an_environment(raw: bytes) -> None:
    for key, value in read_environment(raw).items():
        assert "=" not in key
        assert "\0" not in key + value


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(max_size=9), inner)),
    max_leaves=5,
)


@many
@given(programs=values, proofs=values, raw=st.text(max_size=60))
def test_a_record(programs: object, proofs: object, raw: str) -> None:
    texts = [
        json.dumps({"boot": boot_id(), "programs": programs}),
        json.dumps({"boot": boot_id(), "programs": {"myapp": proofs}}),
        raw,
    ]
    for text in texts:
        for rows in proofs_in(text).values():
            assert all(isinstance(process.pid, int) for process, _ in rows)
