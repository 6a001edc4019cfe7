"""HTTP over the agent's unix socket: requests, NDJSON streams, and problems turned back into errors.

Built on http.client, which costs a third of httpx's import time. What the calls mean is client.py's.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from whit.base.errors import (
    Conflict,
    InputError,
    NotFound,
    Permanent,
    Temporary,
    TimedOut,
    Unavailable,
    Unreachable,
    WhitError,
)

log = logging.getLogger(__name__)

ANSWER_WITHIN = 60.0
"""Seconds that a call which is not a stream may take."""

Query = Mapping[str, str | int | float | bool | Sequence[str] | None]

ERRORS: dict[str, type[WhitError]] = {
    error.code: error for error in (NotFound, Conflict, Unavailable, Unreachable, TimedOut, Permanent, Temporary)
}


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection whose peer is a unix socket."""

    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("whit", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def call(path: Path, method: str, target: str, body: bytes | None = None) -> Any:
    """One request, and the JSON document that answers it.

    Raises:
        WhitError: the problem that the agent answered with.
        Unreachable: no agent listens on the socket, or it went away.
    """
    with _answered(path, method, target, body, ANSWER_WITHIN) as response:
        return _json(_read(response), "the agent's answer")


def text(path: Path, target: str) -> str:
    """What is at `target`, which is no JSON. Raises as `call` does."""
    with _answered(path, "GET", target, None, ANSWER_WITHIN) as response:
        return _read(response).decode()


def stream(path: Path, method: str, target: str, body: bytes | None = None) -> Iterator[dict[str, Any]]:
    """One request whose answer is a document a line, without a limit in time. A problem in the stream is raised."""
    with _answered(path, method, target, body, None) as response:
        for line in _lines(response):
            document = _json(line, "a line of the agent's answer")
            if document.get("problem"):
                raise error_of(document["problem"])
            yield document


def target_of(*segments: str, query: Query | None = None) -> str:
    """Path and query of a call. False, None and empty values are left out; sequences are repeated."""
    path = "/v1/" + "/".join(quote(segment, safe="") for segment in segments)
    pairs = [(key, _text(item)) for key, value in (query or {}).items() for item in _items(value)]
    return f"{path}?{urlencode(pairs)}" if pairs else path


def error_of(problem: Mapping[str, Any]) -> WhitError:
    """The error that a problem document stands for."""
    code = str(problem.get("code", "error"))
    message, hint = str(problem.get("message", "")), str(problem.get("hint") or "")
    error: WhitError
    if code == InputError.code:
        error = InputError(message, hint=hint)
    else:
        error = ERRORS.get(code, WhitError)(message, hint=hint)
    error.code = code
    error.exit_code = int(problem.get("exit_code", error.exit_code))
    return error


def error_of_answer(status: int, body: bytes) -> WhitError:
    """The error of an answer that is not a success, also where it is no problem document."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if isinstance(document, dict) and "message" in document:
        return error_of(document)
    if isinstance(document, dict) and status == http.client.UNPROCESSABLE_ENTITY:
        return InputError(f"the agent refused the request: {json.dumps(document.get('detail', document))}")
    return WhitError(
        f"the agent answered {status}: {body[:200].decode(errors='replace')}",
        hint="is the agent of another release? `whit version` shows both",
    )


def unreachable(path: Path, cause: OSError) -> Unreachable:
    """Says why nobody answers on the socket, and what to do about it."""
    if isinstance(cause, PermissionError):
        return Unreachable(f"{path} may not be opened: {cause.strerror}", hint="the agent belongs to root: use sudo")
    if isinstance(cause, FileNotFoundError | ConnectionRefusedError):
        return Unreachable(f"no agent runs ({path})", hint="`whit up` starts one; --id chooses another")
    return Unreachable(f"the agent does not answer on {path}: {cause}", hint="`whit doctor` examines this machine")


@contextlib.contextmanager
def _answered(
    path: Path, method: str, target: str, body: bytes | None, timeout: float | None
) -> Iterator[http.client.HTTPResponse]:
    """Send a request and give its answer, if it is a success; the connection is closed afterwards."""
    log.debug("%s %s", method, target)
    with contextlib.closing(UnixConnection(path, timeout)) as connection:
        try:
            connection.request(method, target, body, {"Content-Type": "application/json"} if body is not None else {})
            response = connection.getresponse()
        except OSError as error:
            raise unreachable(path, error) from error
        except http.client.HTTPException as error:
            raise _gone_away() from error
        with response:
            if response.status >= http.client.BAD_REQUEST:
                raise error_of_answer(response.status, _read(response))
            yield response


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read()
    except (OSError, http.client.HTTPException) as error:
        raise _gone_away() from error


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The lines as they come. readline() of http.client takes a connection that broke off for the end."""
    rest = b""
    while data := _read_some(response):
        *whole, rest = (rest + data).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _read_some(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(65536)
    except (OSError, http.client.HTTPException) as error:
        raise _gone_away() from error


def _gone_away() -> Unreachable:
    return Unreachable("the agent went away while it answered", hint="what runs goes on; `whit up` starts it again")


def _json(text: bytes, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise WhitError(f"{what} is not JSON: {text[:200].decode(errors='replace')}") from error


def _items(value: str | int | float | bool | Sequence[str] | None) -> Sequence[str | int | float | bool]:
    if value is None or value is False or value == "":
        return ()
    return (value,) if isinstance(value, str | int | float) else value


def _text(value: str | int | float | bool) -> str:
    return "true" if value is True else str(value)
