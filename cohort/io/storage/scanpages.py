"""Pages of single scans in a store: ``report/scans/<scan_id>.html``, with a record beside each that is written last.

A record says from what its page was made (``inputs``) and the page's SHA-256 (``page``).
"""

import hashlib
import re
from pathlib import Path
from typing import Any

from cohort.io.storage.backend import StoreError
from cohort.io.storage.papers import PAGES, Papers

PAGE_OF_A_SCAN = re.compile(rf"{PAGES}/[^/]+\.(html|json)")


def files_of(scan_id: str) -> tuple[str, str]:
    """Names in a store of a scan's page and of its record."""
    return f"{PAGES}/{scan_id}.html", f"{PAGES}/{scan_id}.json"


def write_page(store: Papers, scan_id: str, page: str, *, inputs: str) -> Path | str:
    """Replace the page of a scan; where it lies."""
    name, record = files_of(scan_id)
    content = page.encode("utf-8")
    store.files.remove(record)
    store.files.write(name, content)
    store.write_json(record, {"inputs": inputs, "page": hashlib.sha256(content).hexdigest()})
    return store.place(name)


def page_record(store: Papers, scan_id: str) -> dict[str, Any] | None:
    """Record of a scan's page; None if there is none that can be believed."""
    try:
        return store.read_json(files_of(scan_id)[1])
    except StoreError:
        return None


def remove_page(store: Papers, scan_id: str) -> None:
    """Remove the page of a scan, record first; nothing happens if there is none."""
    for name in reversed(files_of(scan_id)):
        store.files.remove(name)
