"""Who we are to a DICOM node: credentials of the environment or of a netrc file, each for one host alone, and whom TLS trusts.

A catalog names hosts, so what it names must never decide where a password goes. ``COHORT_DICOMWEB_USER`` and
``COHORT_DICOMWEB_PASSWORD``, or ``COHORT_DICOMWEB_TOKEN``, are for the node that ``COHORT_DICOMWEB_HOST`` names (``host`` or
``host:port``); for several nodes there is a netrc file, ``~/.netrc`` or what ``NETRC`` names. Its ``default`` entry is not used. Without TLS a
credential goes to this machine only. ``COHORT_DICOMWEB_CA`` is a file of certificates to trust instead of the system's.
"""

import base64
import errno
import ipaddress
import netrc
import os
import ssl
from pathlib import Path

from cohort.io.sources.dicomweb.address import Address

_HOST, _USER, _PASSWORD, _TOKEN, _CA = (
    f"COHORT_DICOMWEB_{word}" for word in ("HOST", "USER", "PASSWORD", "TOKEN", "CA")
)


def authorization(address: Address) -> str | None:
    """Value of the header ``Authorization`` for a node; None if nobody gave credentials for it.

    Raises
    ------
    PermissionError
        If a credential would leave this machine without TLS, or its file is not the user's alone.
    """
    header = _from_environment(address) or _from_netrc(address)
    if header and not address.is_secure and not _is_here(address.name):
        raise PermissionError(
            errno.EACCES, "a password is sent over TLS only; write dicomweb+https:// instead", None
        )
    return header


def trust(address: Address) -> ssl.SSLContext | None:
    """TLS as the node's URL asks for it; None without.

    Raises
    ------
    OSError
        If the file of trusted certificates cannot be read.
    """
    if not address.is_secure:
        return None
    file = os.environ.get(_CA)
    try:
        return ssl.create_default_context(cafile=file or None)
    except OSError as error:
        why = error.strerror or "no certificate in it"
        raise OSError(errno.EINVAL, f"{_CA} cannot be read ({why})") from None


def _from_environment(address: Address) -> str | None:
    if os.environ.get(_HOST) not in (address.host, address.name):
        return None
    if token := os.environ.get(_TOKEN):
        return f"Bearer {token}"
    user, password = os.environ.get(_USER), os.environ.get(_PASSWORD)
    return _basic(user, password) if user is not None and password is not None else None


def _from_netrc(address: Address) -> str | None:
    try:
        path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    except RuntimeError:  # a user without a home
        return None
    try:
        if path.stat().st_mode & 0o077:
            raise PermissionError(
                errno.EACCES, f"{path.name} can be read by others; chmod 600 it", None
            )
        hosts = netrc.netrc(path).hosts
    except FileNotFoundError:
        return None
    except netrc.NetrcParseError as error:
        # Without the cause: it quotes the file.
        raise OSError(errno.EINVAL, f"{path.name} is no netrc file (line {error.lineno})") from None
    found = hosts.get(address.host) or hosts.get(address.name)
    return _basic(found[0], found[2]) if found else None


def _basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
