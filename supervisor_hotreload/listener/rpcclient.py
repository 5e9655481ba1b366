"""Calls supervisord by XML-RPC: one connection for each call, with a timeout.

It imports the standard library only, because it runs inside applications too.
"""

from __future__ import annotations

import base64
import http.client
import socket
import xmlrpc.client
from collections.abc import Mapping
from typing import Any, Optional
from urllib.parse import urlsplit
from xml.parsers.expat import ExpatError

TIMEOUT_SECONDS = 5.0
"""Limit for each read and write on the connection."""

UNAUTHORIZED = (
    "refused: user name and password are wrong or missing; set environment = "
    'SUPERVISOR_USERNAME="...",SUPERVISOR_PASSWORD="..." in the section of the program that asks, '
    "then run supervisorctl update"
)

BROKEN = (OSError, http.client.HTTPException, ExpatError, xmlrpc.client.ResponseError)
"""Exceptions of a call whose answer is wrong or does not come."""


class NoAnswer(Exception):
    """supervisord did not answer; the message says why."""


class Unauthorized(NoAnswer):
    """supervisord refuses the user name or the password."""


class RpcClient:
    """Calls the XML-RPC methods of supervisord.

    No request is sent twice: a method may start something.

    :param url: 'unix:///path' or 'http://host:port' (SUPERVISOR_SERVER_URL).
    :raises ValueError: for another kind of URL.
    """

    def __init__(self, url: str, username: str = "", password: str = "") -> None:
        if not url.startswith(("unix://", "http://")):
            raise ValueError(f"SUPERVISOR_SERVER_URL = {url}: neither unix:// nor http://")
        self._url = url
        self._headers = {"Content-Type": "text/xml"}
        if username:
            token = base64.b64encode(f"{username}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"

    def call(self, method: str, *parameters: Any) -> Any:
        """Return the answer of *method*.

        :raises xmlrpc.client.Fault: when supervisord refuses.
        :raises NoAnswer: when it does not answer.
        :raises Unauthorized: when it refuses the user name or the password.
        """
        connection = _Unix(self._url[7:]) if self._url.startswith("unix://") else self._tcp()
        try:
            body = xmlrpc.client.dumps(parameters, method).encode()
            connection.request("POST", "/RPC2", body, self._headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status == http.HTTPStatus.UNAUTHORIZED:
                raise Unauthorized(f"{self._url}: {UNAUTHORIZED}")
            if answer.status != 200:
                raise NoAnswer(f"{self._url}: {answer.status} {answer.reason}")
            return xmlrpc.client.loads(content)[0][0]
        except BROKEN as error:
            raise NoAnswer(f"{self._url}: {error}") from None
        finally:
            connection.close()

    def _tcp(self) -> http.client.HTTPConnection:
        parts = urlsplit(self._url)
        return http.client.HTTPConnection(
            parts.hostname or "", parts.port or 80, timeout=TIMEOUT_SECONDS
        )


class _Unix(http.client.HTTPConnection):
    """Speaks HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def from_environment(environment: Mapping[str, str]) -> Optional[RpcClient]:
    """Return a client of the supervisord that started this process, None when it has no server.

    :raises ValueError: when its URL is neither unix:// nor http://.
    """
    url = environment.get("SUPERVISOR_SERVER_URL")
    if not url:
        return None
    return RpcClient(
        url,
        environment.get("SUPERVISOR_USERNAME", ""),
        environment.get("SUPERVISOR_PASSWORD", ""),
    )
