"""What may leave the private side: keyed tokens for identities, and the header values of an allow-list.

Nothing passes because nobody forbade it. A text tag passes only as one of the words listed here, never as it stands.
"""

import hashlib
import hmac
import os
import re
import secrets
import stat
from base64 import b32encode
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cohort.io.visits import DAYS_PER_YEAR, day_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Kind = Literal["subject", "session", "series", "file"]

AGE_CAP = 89
"""Ages over this many years are stored as 90: so few people are older that the number names them."""

_MODALITIES = frozenset(("CT", "MR", "PT", "NM", "US", "CR", "DX", "XA", "RF", "MG", "OT", "SC"))
_SEXES = frozenset("MFO")
_BODY_PART_NAMES = (
    "ABDOMEN ANKLE ARM BRAIN BREAST CHEST CSPINE ELBOW EXTREMITY FOOT HAND HEAD HEADNECK HEART HIP KNEE LEG LIVER "
    "LSPINE LUNG NECK PANCREAS PELVIS PROSTATE SHOULDER SKULL SPINE TSPINE UTERUS WHOLEBODY WRIST"
)
_BODY_PARTS = frozenset(_BODY_PART_NAMES.split())
_SEQUENCES = frozenset(("SE", "IR", "GR", "EP", "RM"))
_SEQUENCE_VARIANTS = frozenset(("SK", "MTC", "SS", "TRSS", "SP", "MP", "OSP", "TOF", "NONE"))
_DIMENSIONS = frozenset(("2D", "3D"))

_MANUFACTURERS = {
    "siemens": "siemens",
    "ge medical": "ge",
    "ge healthcare": "ge",
    "gems": "ge",
    "philips": "philips",
    "canon": "canon",
    "toshiba": "canon",
    "hitachi": "hitachi",
    "fujifilm": "fujifilm",
    "uih": "united imaging",
    "united imaging": "united imaging",
    "bruker": "bruker",
}
"""Beginning of the manufacturer's name, in small letters -> class."""

MANUFACTURERS = frozenset(_MANUFACTURERS.values())
"""Classes of manufacturers, as `manufacturer_class` gives them."""

_MODEL_NAMES = (
    "achieva aera allegra altea ambition amira aquilion architect artis artist avanto avanto_fit biograph biograph_mmr "
    "brightspeed brilliance cima confirma connectom definition discovery echelon elition emotion espree essenza excite "
    "free.max galan genesis gyroscan harmony hdx hdxt hde horizon ict ingenia ingenuity intera iqon lightning "
    "lightspeed lumina magnetom mct mx8000 oasis optima orian panorama perspective pioneer pristine prisma prisma_fit "
    "prospeed revolution sensation signa skyra skyra_fit sola somatom sonata spectra symphony terra titan trio triotim "
    "uct umr upmr vantage verio vida vida_fit voyager"
)
_MODELS = frozenset(_MODEL_NAMES.split())
_MODEL_CODE_NAMES = (
    "mr355 mr360 mr430s mr450 mr450w mr750 mr750w ct450 ct540 ct660 ct680 ct750 355 360 450 450w 550 560 570 580 "
    "590rt 600 660 670 680 690 710 740 750 750w 760 770 780 790 870 880 890 16 20 32 40 64 80 128 256 320 "
    "0.55t 1.0t 1.5t 3.0t 3t 7t ct mr st ste rx vct pet edge force as as+ flash"
)
_MODEL_CODES = frozenset(_MODEL_CODE_NAMES.split())
"""What may stand beside a known model's name. Every one is listed: a form would fit a room or a record number too."""


ATTRIBUTES = frozenset(
    (
        # Of the header, by `header_attrs`.
        *("modality", "manufacturer", "manufacturer_model", "field_strength_t", "acquisition_type"),
        *("scanning_sequence", "sequence_variant", "body_part", "lossy", "sex", "age_years"),
        *("age_capped", "repetition_time_ms", "echo_time_ms", "inversion_time_ms"),
        *("flip_angle_deg", "echo_train_length", "n_averages", "slice_thickness_mm"),
        *("tube_voltage_kv",),
        # Of the reading: what was found, decided and counted.
        *(
            "n_files",
            "n_duplicates",
            "n_trailing_bytes",
            "n_nan",
            "photometric",
        ),
        *("orientation_from", "space_units", "flags", "accepted", "resampled"),
        *("philips_scale_slope", "philips_scale_intercept", "philips_precise"),
    )
)
"""Names of the attributes that a stored scan may have. `io.audit` finds any other."""


class KeyFileError(ValueError):
    """The file of the secret key cannot be made, read or believed."""


def key_file() -> Path:
    """Where the key lies unless a catalog names another place."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "cohort" / "key"


def load_key(path: Path | None = None) -> bytes:
    """Read the secret key under which identities become tokens; make it at first use.

    Parameters
    ----------
    path : Path, optional
        Default `key_file`: ``$XDG_CONFIG_HOME/cohort/key`` (``~/.config/cohort/key``).

    Returns
    -------
    bytes, 32 of them
        The file holds them in hexadecimal, mode 0600. Two processes that start at once get the same key.

    Raises
    ------
    KeyFileError
        If the file does not hold 64 hexadecimal digits, cannot be written, or can be read by everybody.
    """
    path = key_file() if path is None else path
    try:
        if not path.exists():
            _make_key(path)
        mode = stat.S_IMODE(path.stat().st_mode)
        key = bytes.fromhex(path.read_text("ascii").strip())
    except (OSError, ValueError) as error:
        raise KeyFileError(f"cannot use the key {path}: {error}") from error
    if len(key) != 32:
        raise KeyFileError(f"the key {path} holds {len(key)} bytes, expected 32 in hexadecimal")
    # A group may share a key so that its members make the same tokens; everybody else must not.
    if mode & 0o007:
        raise KeyFileError(
            f"everybody on this machine can read the key {path} (mode {mode:04o}, expected 0600); "
            f"run: chmod 600 {path}"
        )
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(32) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        # A link, unlike a rename, never replaces a key that another process has made meanwhile.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


class Tokens:
    """Stable names that only the holder of the key can trace back.

    Parameters
    ----------
    key : bytes
        As `load_key` gives it.

    Examples
    --------
    >>> tokens = Tokens(bytes(32))
    >>> tokens.token("subject", "A-17")
    'e6v4jwhc2tmtz3wm'
    >>> tokens.token("session", "A-17") == tokens.token("subject", "A-17")
    False
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def token(self, kind: Kind, text: str) -> str:
        """Sixteen characters [a-z2-7]: 80 bits of HMAC-SHA256 over ``kind:text``."""
        return b32encode(self._mac(f"{kind}:{text}")[:10]).decode("ascii").lower()

    def uid(self, uid: str) -> str:
        """Stand in for a DICOM UID: ``2.25.<128 bits>``."""
        return f"2.25.{int.from_bytes(self._mac(f'uid:{uid}')[:16], 'big')}"

    def _mac(self, text: str) -> bytes:
        return hmac.new(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()


def header_attrs(dataset: "Dataset") -> dict[str, Any]:
    """Header values that may be stored and shared.

    Parameters
    ----------
    dataset : pydicom Dataset
        Of one file of the series.

    Returns
    -------
    dict
        Of ``modality``, ``manufacturer``, ``manufacturer_model``, ``field_strength_t``, ``repetition_time_ms``,
        ``echo_time_ms``, ``inversion_time_ms``, ``flip_angle_deg``, ``echo_train_length``, ``n_averages``,
        ``slice_thickness_mm``, ``tube_voltage_kv``, ``scanning_sequence``, ``sequence_variant``,
        ``acquisition_type``, ``body_part``, ``lossy``, ``age_years``, ``age_capped`` and ``sex``, those the header has.
    """
    # pydicom takes 30 MB, which only those who read DICOM files need.
    from cohort.io.slices import elements

    attrs: dict[str, Any] = {
        "modality": _listed(elements.text(dataset, "Modality"), _MODALITIES),
        "manufacturer": manufacturer_class(elements.text(dataset, "Manufacturer")),
        "manufacturer_model": _model(elements.text(dataset, "ManufacturerModelName")),
        "field_strength_t": _tesla(elements.number(dataset, "MagneticFieldStrength")),
        "acquisition_type": _listed(elements.text(dataset, "MRAcquisitionType"), _DIMENSIONS),
        "scanning_sequence": _all_listed(elements.texts(dataset, "ScanningSequence"), _SEQUENCES),
        "sequence_variant": _all_listed(
            elements.texts(dataset, "SequenceVariant"), _SEQUENCE_VARIANTS
        ),
        "body_part": _listed(elements.text(dataset, "BodyPartExamined"), _BODY_PARTS),
        "lossy": elements.text(dataset, "LossyImageCompression") == "01" or None,
        "sex": _listed(elements.text(dataset, "PatientSex"), _SEXES),
    }
    attrs |= {name: elements.number(dataset, keyword) for name, keyword in _NUMBERS.items()}
    attrs |= _age(dataset)
    return {name: value for name, value in attrs.items() if value not in (None, "")}


_NUMBERS: Mapping[str, str] = {
    "repetition_time_ms": "RepetitionTime",
    "echo_time_ms": "EchoTime",
    "inversion_time_ms": "InversionTime",
    "flip_angle_deg": "FlipAngle",
    "echo_train_length": "EchoTrainLength",
    "n_averages": "NumberOfAverages",
    "slice_thickness_mm": "SliceThickness",
    "tube_voltage_kv": "KVP",
}


def is_word(attribute: str, value: str) -> bool:
    """Whether a text may stand in an attribute of the header; of others anything may.

    Examples
    --------
    >>> is_word("manufacturer_model", "signa hdxt"), is_word("manufacturer_model", "skyra mrn123")
    (True, False)
    """
    if attribute == "manufacturer_model":
        return _model(value) == value
    allowed = _WORDS.get(attribute)
    return allowed is None or all(word in allowed for word in value.split("\\"))


_WORDS: Mapping[str, frozenset[str]] = {
    "modality": _MODALITIES,
    "manufacturer": MANUFACTURERS | {"other"},
    "acquisition_type": _DIMENSIONS,
    "scanning_sequence": _SEQUENCES,
    "sequence_variant": _SEQUENCE_VARIANTS,
    "body_part": _BODY_PARTS,
    "sex": _SEXES,
}


def manufacturer_class(name: str) -> str | None:
    """Class of a manufacturer's name: ``siemens``, ``ge``, ...; ``other`` for a name not listed, None for no name."""
    plain = name.casefold()
    if not plain:
        return None
    return next((c for start, c in _MANUFACTURERS.items() if plain.startswith(start)), "other")


def _model(name: str) -> str | None:
    """Keep the first words in a row that are known words; None if no known model is among them.

    What comes after a word that is not known is no longer the name of a model: people write rooms and patients there.
    """
    words = [word for word in re.split(r"[\s,()/]+", name.casefold()) if word]
    known = [word in _MODELS or word in _MODEL_CODES for word in words]
    families = [i for i, word in enumerate(words) if word in _MODELS]
    if not families:
        return None
    start = end = families[0]
    while start and known[start - 1]:
        start -= 1
    while end < len(words) and known[end]:
        end += 1
    return " ".join(words[start:end])


def _tesla(value: float | None) -> float | None:
    """Take values over 100 for gauss, which some scanners write."""
    return value / 10_000 if value is not None and value > 100 else value


def _listed(value: str, allowed: frozenset[str]) -> str | None:
    return value.upper() if value.upper() in allowed else None


def _all_listed(values: Iterable[str], allowed: frozenset[str]) -> str | None:
    return "\\".join(value for value in values if value in allowed) or None


def ages_disagree(dataset: "Dataset") -> bool:
    """Whether the age of a header and its birth date are more than a year apart: one of them is not of this person."""
    said = parse_age(_text(dataset, "PatientAge"))
    counted = _age_from_dates(dataset)
    # An age of whole years is up to one year less than the true one.
    return said is not None and counted is not None and not -1.0 <= counted - said <= 2.0


def _age_from_dates(dataset: "Dataset") -> float | None:
    born = day_of(_text(dataset, "PatientBirthDate"))
    seen = day_of(_text(dataset, "AcquisitionDate")) or day_of(_text(dataset, "StudyDate"))
    return (seen - born).days / DAYS_PER_YEAR if born and seen and seen >= born else None


def _age(dataset: "Dataset") -> dict[str, Any]:
    age = parse_age(_text(dataset, "PatientAge"))
    if age is None:
        age = _age_from_dates(dataset)
    if age is None or age > 120:
        return {}
    if age > AGE_CAP:
        return {"age_years": 90.0, "age_capped": True}
    # A hundredth of a year is about four days: with exact days an age would give the birth date away.
    return {"age_years": round(age, 2), "age_capped": False}


def _text(dataset: "Dataset", keyword: str) -> str:
    from cohort.io.slices import elements

    return elements.text(dataset, keyword)


def parse_age(text: str) -> float | None:
    """Years of a DICOM age string: ``065Y``, ``018M``, ``012W``, ``003D``; None for anything else.

    Zero (``000Y``) is what anonymisers write, so it counts as missing.

    Examples
    --------
    >>> parse_age("065Y"), parse_age("018M"), parse_age("65")
    (65.0, 1.5, None)
    """
    found = re.fullmatch(r"(\d{1,3})([YMWD])", text.strip())
    if not found or int(found[1]) == 0:
        return None
    per_year = {"Y": 1.0, "M": 12.0, "W": DAYS_PER_YEAR / 7, "D": DAYS_PER_YEAR}
    return int(found[1]) / per_year[found[2]]
