"""Names of DICOM nodes and of what lies on them: URLs of catalogs, paths that stand for them, filters.

A source is ``dicomweb://host:port/root?Modality=MR``, with TLS ``dicomweb+https://...``. What lies there is named by a path, as a file in a
bucket is: ``dicomweb:/host:port/root/studies/1.2/series/1.2.3/instances/1.2.3.4``. Such a path holds UIDs and is as private as
one of a folder. A filter chooses by what was scanned and when; none can name a person, because a URL ends in logs.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode

from cohort.io.sources.buckets import UrlError

SCHEMES: Mapping[str, str] = {"dicomweb": "http", "dicomweb+https": "https"}
"""As a catalog writes them, and what is spoken."""

_PORTS = {"http": 80, "https": 443}

_DATES = re.compile(r"\d{8}(-(\d{8})?)?|-\d{8}")
_WORD = re.compile(r"[A-Z0-9_ ]{1,16}")
_TEXT = re.compile(r"[^\x00-\x1f\x7f\\]{1,64}")

FILTERS: Mapping[str, tuple[str, re.Pattern[str], str]] = {
    "Modality": ("00080060", _WORD, "such as MR"),
    "StudyDate": ("00080020", _DATES, "such as 20240131, 20240101-20241231 or 20240101-"),
    "SeriesDescription": ("0008103E", _TEXT, "text, * and ? stand for any"),
    "StudyDescription": ("00081030", _TEXT, "text, * and ? stand for any"),
    "BodyPartExamined": ("00180015", _WORD, "such as BRAIN"),
    "ProtocolName": ("00181030", _TEXT, "text, * and ? stand for any"),
    "ManufacturerModelName": ("00081090", _TEXT, "text, * and ? stand for any"),
    "StationName": ("00081010", _TEXT, "text, * and ? stand for any"),
}
"""What a source may choose by: the attribute's tag, the form of a value, and how it is told."""

_HOST = re.compile(
    r"(?P<name>[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9a-fA-F:.]{2,45}\])(:(?P<port>\d{1,5}))?"
)
_STEP = re.compile(r"[A-Za-z0-9._~-]{1,64}")

_EXPECTED = "expected a URL dicomweb://host:port/root, found"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node answers, and which of its series are meant.

    Parameters
    ----------
    scheme : {"dicomweb", "dicomweb+https"}
    host : str
        With its port, if the URL has one.
    root : tuple of str
        Steps of the path below which the services lie.
    filters : tuple of (keyword, value)
        Sorted by keyword.
    """

    scheme: str
    host: str
    root: tuple[str, ...]
    filters: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """Name for messages: host and root, nothing of what lies there."""
        return f"{self.scheme}://{'/'.join((self.host, *self.root))}"

    @property
    def is_secure(self) -> bool:
        """Whether it is spoken to over TLS."""
        return SCHEMES[self.scheme] == "https"

    @property
    def name(self) -> str:
        """Host without port and brackets."""
        match = _HOST.fullmatch(self.host)
        assert match is not None  # from_url and of saw to it
        return match["name"].strip("[]")

    @property
    def port(self) -> int:
        """Port, the scheme's own if the URL has none."""
        match = _HOST.fullmatch(self.host)
        assert match is not None
        return int(match["port"] or _PORTS[SCHEMES[self.scheme]])

    @property
    def path(self) -> Path:
        """Path of the source."""
        query = (f"?{urlencode(self.filters, quote_via=quote, safe='*')}",) if self.filters else ()
        return Path(f"{self.scheme}:", self.host, *self.root, *query)

    def target(self, *steps: str) -> str:
        """What a request asks for: the path of a resource below the root."""
        return "/" + "/".join((*self.root, *steps))

    def series_path(self, study: str, series: str) -> Path:
        """Path of a series, whatever its UIDs look like."""
        base = Path(f"{self.scheme}:", self.host, *self.root)
        return base / "studies" / step(study) / "series" / step(series)


def is_url(text: str) -> bool:
    """Whether a source is meant to be a node."""
    return text.partition("://")[0] in SCHEMES


def is_node(path: Path) -> bool:
    """Whether a path names a node or something on one."""
    return len(path.parts) > 1 and path.parts[0][:-1] in SCHEMES and path.parts[0][-1] == ":"


def from_url(url: str) -> Path:
    """Path that names a node, with the filters of its URL.

    Raises
    ------
    UrlError
        For credentials, a host that is none, an address that belongs to no node, a filter that is not known or whose value
        it cannot have.

    Examples
    --------
    >>> from_url("dicomweb://pacs.example.org:8042/dicom-web/?Modality=MR").as_posix()
    'dicomweb:/pacs.example.org:8042/dicom-web/?Modality=MR'
    """
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        raise UrlError(f"{_EXPECTED} another scheme")
    place, _, query = rest.partition("?")
    host, _, root = place.partition("/")
    if "@" in host:
        raise UrlError(
            f"{_EXPECTED} credentials in it; take them out and put them in ~/.netrc or the environment "
            "(COHORT_DICOMWEB_HOST, COHORT_DICOMWEB_USER, COHORT_DICOMWEB_PASSWORD)"
        )
    if "#" in url:
        raise UrlError(f"{_EXPECTED} '#' in it")
    match = _HOST.fullmatch(host)
    if match is None or not 0 < int(match["port"] or 80) < 65536:
        raise UrlError(f"{_EXPECTED} {host!r} where host:port should be")
    if is_no_node(match["name"].strip("[]")):
        raise UrlError(f"{_EXPECTED} {host!r}, an address at which no DICOM node answers")
    steps = tuple(part for part in root.split("/") if part)
    if any(not _STEP.fullmatch(part) or part in (".", "..", "studies") for part in steps):
        raise UrlError(
            f"{_EXPECTED} a root with '.', '..', 'studies' or characters other than letters, digits, '._~-'"
        )
    return Address(scheme, host, steps, _filters(query)).path


def is_no_node(host: str) -> bool:
    """Whether an address is one that a cloud or a switch uses for itself: link-local, multicast, unspecified."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        # A number that a resolver would take for an address is never what somebody calls a node.
        return re.fullmatch(r"[0-9.]+|0[xX][0-9a-fA-F]+", host) is not None
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_link_local or mapped.is_multicast or mapped.is_unspecified


def _filters(query: str) -> tuple[tuple[str, str], ...]:
    if not query:
        return ()
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict")
    except (ValueError, UnicodeDecodeError):
        raise UrlError(f"{_EXPECTED} a query that is no list of KEY=VALUE") from None
    for key, value in pairs:
        if key not in FILTERS:
            shown = repr(key) if re.fullmatch(r"[A-Za-z0-9]{1,64}", key) else "something else"
            raise UrlError(
                f"{_EXPECTED} a filter by {shown}; known are {', '.join(FILTERS)} (nothing that names a person)"
            )
        _, form, told = FILTERS[key]
        if not form.fullmatch(value):
            raise UrlError(f"{_EXPECTED} a value of {key} that is not {told}")
    if len({key for key, _ in pairs}) < len(pairs):
        raise UrlError(f"{_EXPECTED} a filter twice; list the source once for each value")
    return tuple(sorted(pairs))


def of(path: Path) -> Address:
    """Address of the node that a path names, or on which lies what it names."""
    scheme, host, *rest = path.parts
    filters: tuple[tuple[str, str], ...] = ()
    if rest and rest[-1].startswith("?"):
        filters = tuple(parse_qsl(rest.pop()[1:], keep_blank_values=True))
    root = rest[: rest.index("studies")] if "studies" in rest else rest
    return Address(scheme[:-1], host, tuple(root), filters)


def series_of(path: Path) -> tuple[Path, str] | None:
    """Path of the series and UID of the instance that a path names; None for anything but an instance."""
    parts = path.parts
    if len(parts) > 6 and (parts[-6], parts[-4], parts[-2]) == ("studies", "series", "instances"):
        return path.parents[1], parts[-1]
    return None


def below_root(path: Path) -> tuple[str, ...]:
    """Steps of a resource that a path names: ``studies``, UID, ``series``, UID, ..."""
    parts = path.parts
    return parts[parts.index("studies") :]


def step(uid: str) -> str:
    """A UID as one step of a path and of a URL, whatever a node calls one.

    Examples
    --------
    >>> step("1.2.840.10008"), step("../../etc"), step("..")
    ('1.2.840.10008', '..%2F..%2Fetc', '%2E%2E')
    """
    plain = quote(uid, safe="")
    return plain.replace(".", "%2E") if plain.strip(".") == "" else plain


def agrees(wanted: str, found: str, keyword: str) -> bool:
    """Whether a value fits a filter, for nodes that do not filter by every attribute.

    Examples
    --------
    >>> agrees("20240101-", "20240615", "StudyDate"), agrees("-2023", "2024", "StudyDate"), agrees("t1*", "T1w", "ProtocolName")
    (True, False, True)
    """
    if keyword == "StudyDate":
        first, dash, last = wanted.partition("-")
        if not dash:
            return found == first
        return (not first or found >= first) and (not last or found <= last)
    return fnmatchcase(found.lower(), wanted.lower().replace("[", "[[]"))
