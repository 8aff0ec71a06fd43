"""Requests to a DICOM node: one connection each, tried again a bounded number of times, told in words that hold no id.

Python's own client is used because it writes no log: others log each URL, and URLs hold UIDs. What a node answers may repeat a
credential or an id too, so its words are never passed on.
"""

import errno
import json
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
    IncompleteRead,
)
from typing import Any
from urllib.parse import quote, urlencode

from cohort.io.sources.dicomweb import login
from cohort.io.sources.dicomweb.address import Address, is_no_node
from cohort.io.storage.backend import Unreachable

PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Before the second, third, ... try of a request; then the node is away."""

CONNECT_S, SILENCE_S = 15.0, 60.0
"""How long a node may take to connect, and to say nothing. An answer as a whole may take long."""

CHUNK = 1 << 18
"""Bytes read at a time."""

_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that another try may not meet."""

_MOST_JSON = 64 << 20
"""A longer list is refused: a page of what is asked for takes some hundreds of kB."""

_MOST_WAIT_S = 30.0
"""Longest pause that a node may ask for."""

Found = dict[str, Any]
"""One object of DICOM JSON: tag -> {vr, Value}."""


class NodeAway(Unreachable):
    """A node that does not answer, or does not let us in: the next request would meet the same."""

    def __str__(self) -> str:
        """Node and reason, without a number."""
        return f"{self.filename}: {self.strerror}"


class BadAnswer(OSError):
    """An answer of which nothing can be used; it concerns what was asked for and nothing else."""

    def __str__(self) -> str:
        """The reason, without a number."""
        return str(self.strerror)


class Node:
    """A DICOM node.

    Parameters
    ----------
    address : Address

    Raises
    ------
    NodeAway
        If credentials or certificates cannot be used; see `login`.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        try:
            self._authorization = login.authorization(address)
            self._trust = login.trust(address)
        except OSError as error:
            raise self.away(error.errno or errno.EINVAL, str(error.strerror)) from None

    def away(self, number: int, said: str) -> NodeAway:
        """An error that is the node's."""
        return NodeAway(number, said, self.address.label)

    def ping(self) -> None:
        """Ask for one study, once. Raises `NodeAway`, or `BadAnswer` if this is no node at all."""
        try:
            with self._once(
                self._listing("studies", [("limit", "1")]), "application/dicom+json"
            ) as r:
                status = r.status
        except (OSError, HTTPException) as error:
            raise self.away(errno.ECONNREFUSED, _words(error)) from None
        if status not in (200, 204):
            raise self._refused(status)

    def listed(self, resource: str, query: Sequence[tuple[str, str]]) -> list[Found]:
        """One page of what a search finds.

        Parameters
        ----------
        resource : str
            Path below the root.
        query : sequence of (key, value)

        Raises
        ------
        NodeAway
        BadAnswer
            With errno ENOENT if the node knows no such resource, EBADMSG if the answer is no DICOM JSON.
        """
        return self._json(self._listing(resource, query))

    def metadata(self, *steps: str) -> list[Found]:
        """Headers of the instances of a series, without pixels. Raises as `listed`."""
        return self._json(self.address.target(*steps, "metadata"))

    @contextmanager
    def sent(self, *steps: str) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Kind and content of what WADO-RS sends, as it is stored there.

        Raises
        ------
        NodeAway
            If it does not begin.
        BadAnswer
            With errno ENOENT if the node has no such thing, EIO if the connection breaks on the way.
        """
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        with self._patiently(self.address.target(*steps), accept) as response:
            kind = response.headers.get("Content-Type", "")
            yield kind, _chunks(response)

    def _listing(self, resource: str, query: Sequence[tuple[str, str]]) -> str:
        return f"{self.address.target(resource)}?{urlencode(query, quote_via=quote, safe='*?')}"

    def _json(self, target: str) -> list[Found]:
        for pause in (*PAUSES_S[:2], None):
            with self._patiently(target, "application/dicom+json") as response:
                if response.status == 204:
                    return []
                try:
                    return self._objects(response)
                except (OSError, HTTPException) as error:
                    if isinstance(error, BadAnswer):
                        raise
                    said = _words(error)
            if pause is not None:
                time.sleep(pause)
        raise self.away(errno.ECONNRESET, said)

    @staticmethod
    def _objects(response: HTTPResponse) -> list[Found]:
        text = response.read(_MOST_JSON + 1)
        if len(text) > _MOST_JSON:
            raise BadAnswer(errno.EMSGSIZE, f"a list of more than {_MOST_JSON >> 20} MiB")
        _check_whole(response)
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise BadAnswer(errno.EBADMSG, "a list that is no DICOM JSON")
        return found

    @contextmanager
    def _patiently(self, target: str, accept: str) -> Iterator[HTTPResponse]:
        """A response of status 200 or 204; what may pass is tried again."""
        with ExitStack() as stack:
            yield self._answer(stack, target, accept)

    def _answer(self, stack: ExitStack, target: str, accept: str) -> HTTPResponse:
        for pause in (*PAUSES_S, None):
            number, wait = errno.ECONNREFUSED, 0.0
            try:
                response = stack.enter_context(self._once(target, accept))
            except ssl.SSLCertVerificationError as error:
                raise self.away(errno.EPROTO, _words(error)) from None
            except NodeAway:
                raise
            except (OSError, HTTPException) as error:
                said = _words(error)
            else:
                if response.status in (200, 204):
                    return response
                if response.status not in _AGAIN:
                    raise self._refused(response.status)
                number, said = errno.EAGAIN, f"it fails (status {response.status})"
                wait = _wait(response)
                stack.close()
            if pause is not None:
                time.sleep(max(pause, wait))
        raise self.away(number, f"{said}; tried {len(PAUSES_S) + 1} times")

    @contextmanager
    def _once(self, target: str, accept: str) -> Iterator[HTTPResponse]:
        connection = self._connection()
        try:
            connection.connect()
            connection.sock.settimeout(SILENCE_S)
            # A name may stand for any address; what a request asks for, and as whom, is told to a node alone.
            if is_no_node(connection.sock.getpeername()[0]):
                raise self.away(errno.EACCES, "its name stands for an address of no DICOM node")
            headers = {"Accept": accept, "Connection": "close", "User-Agent": "cohort"}
            if self._authorization:
                headers["Authorization"] = self._authorization
            connection.request("GET", target, headers=headers)
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()

    def _connection(self) -> HTTPConnection:
        name, port = self.address.name, self.address.port
        if self._trust is None:
            return HTTPConnection(name, port, timeout=CONNECT_S)
        return HTTPSConnection(name, port, timeout=CONNECT_S, context=self._trust)

    def _refused(self, status: int) -> OSError:
        if status in (401, 403, 407):
            hint = "" if self._authorization else "; no credentials were given for it"
            return self.away(errno.EACCES, f"the DICOM node denies access ({status}){hint}")
        if status in (404, 405, 410, 400, 501):
            return BadAnswer(errno.ENOENT, f"nothing of that name (status {status})")
        if 300 <= status < 400:
            return self.away(
                errno.EREMOTE, f"it leads elsewhere (status {status}), which is not followed"
            )
        return self.away(errno.EPROTO, f"it fails (status {status})")


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read(CHUNK):
            yield chunk
        _check_whole(response)
    except (OSError, HTTPException) as error:
        raise BadAnswer(errno.EIO, _words(error)) from None


def _check_whole(response: HTTPResponse) -> None:
    """Python's client says nothing of an answer that is shorter than it was to be, if it is read in pieces."""
    if response.length:
        raise IncompleteRead(b"", response.length)


def _wait(response: HTTPResponse) -> float:
    """Seconds that a node asks for, within reason."""
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), _MOST_WAIT_S) if asked.isdecimal() and len(asked) < 6 else 0.0


def _words(error: Exception) -> str:
    """What went wrong on the way, without what the node said."""
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "it does not answer (connection refused)"
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "name the file of its CA in COHORT_DICOMWEB_CA"
        return f"its certificate is not trusted ({error.verify_message}); {hint}"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails ({error.reason or type(error).__name__})"
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        return f"it does not answer ({error.strerror.lower()})"
    return f"the connection breaks ({type(error).__name__})"
