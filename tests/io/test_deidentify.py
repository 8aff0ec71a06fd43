"""Tokens that only the key can trace, ages that name nobody, and headers of which only listed words pass."""

import hashlib
import itertools
import re
import stat
import threading
import warnings
from base64 import b32encode
from datetime import date, timedelta

import pydicom
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary

from cohort.io.covariates import ParticipantsTable
from cohort.io.deidentify import (
    KeyFileError,
    Tokens,
    header_attrs,
    load_key,
    parse_age,
)
from cohort.io.participants import read_participants
from cohort.io.visits import days_since_first_scan

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))


def dataset(**tags):
    result = pydicom.Dataset()
    for keyword, value in tags.items():
        setattr(result, keyword, value)
    return result


# --- the key -------------------------------------------------------------------------------------------------------


def test_the_key_is_made_once_and_for_its_owner_only(tmp_path):
    path = tmp_path / "new" / "key"
    key = load_key(path)
    assert len(key) == 32
    assert load_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["key"]
    assert load_key(tmp_path / "another") != key


def test_the_key_lies_in_the_users_config_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_key() == load_key(tmp_path / "cohort" / "key")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert load_key() == load_key(tmp_path / "home" / ".config" / "cohort" / "key")


def test_many_that_start_at_once_share_one_key(tmp_path):
    start, keys = threading.Barrier(8), []

    def run():
        start.wait()
        keys.append(load_key(tmp_path / "key"))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == 1


@pytest.mark.parametrize("content", ["", "abc", "00" * 31, "zz" * 32])
def test_a_damaged_key_is_refused_and_kept(content, tmp_path):
    path = tmp_path / "key"
    path.write_text(content)
    with pytest.raises(KeyFileError):
        load_key(path)
    assert path.read_text() == content


@pytest.mark.parametrize(
    ("mode", "fine"), [(0o600, True), (0o640, True), (0o604, False), (0o666, False)]
)
def test_a_key_that_everybody_can_read_is_refused(mode, fine, tmp_path):
    path = tmp_path / "key"
    key = load_key(path)
    path.chmod(mode)
    if fine:
        assert load_key(path) == key
    else:
        with pytest.raises(KeyFileError, match=rf"mode 0{mode:o}, expected 0600\); run: chmod 600"):
            load_key(path)


# --- tokens --------------------------------------------------------------------------------------------------------


@given(text=st.text(), other=st.text())
def test_a_token_is_a_plain_word_that_depends_on_key_kind_and_text(text, other):
    tokens = Tokens(KEY)
    token = tokens.token("subject", text)
    assert re.fullmatch("[a-z0-9]{16}", token)
    assert token == Tokens(KEY).token("subject", text)
    assert token not in (tokens.token("session", text), Tokens(OTHER).token("subject", text))
    assert (token == tokens.token("subject", other)) == (text == other)


@given(uid=st.from_regex(r"[0-9]{1,5}(\.[0-9]{1,9}){2,6}", fullmatch=True))
def test_a_uid_becomes_a_valid_uid(uid):
    mine = pydicom.uid.UID(Tokens(KEY).uid(uid))
    assert mine.is_valid
    assert mine.startswith("2.25.")
    assert int(mine.rsplit(".", 1)[1]) < 2**128
    assert mine != Tokens(OTHER).uid(uid)


@pytest.mark.parametrize("guesses", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_guessing_numbers_without_the_key_finds_nothing(guesses):
    numbers = range(4_000_000, 4_000_000 + guesses)
    tokens = {Tokens(KEY).token("subject", str(n)) for n in numbers[:: guesses // 1000]}
    uids = {Tokens(KEY).uid(str(n)) for n in numbers[:: guesses // 1000]}
    # What somebody without the key can compute: plain digests of every number, and tokens under keys easily guessed.
    guessers = [Tokens(key) for key in (b"", bytes(32), b"cohort")]
    for n in numbers:
        for text in (str(n), f"subject:{n}"):
            plain = hashlib.sha256(text.encode()).digest()
            assert b32encode(plain[:10]).decode().lower() not in tokens
            assert plain.hex()[:16] not in tokens
        guesser = guessers[n % 3]
        assert guesser.token("subject", str(n)) not in tokens
        assert guesser.uid(str(n)) not in uids


@given(texts=st.sets(st.text(), min_size=1, max_size=50))
def test_tokens_of_one_key_are_equal_and_of_another_never(texts):
    mine = {text: Tokens(KEY).token("subject", text) for text in texts}
    assert len(set(mine.values())) == len(texts)
    assert mine == {text: Tokens(KEY).token("subject", text) for text in texts}
    assert set(mine.values()).isdisjoint(Tokens(OTHER).token("subject", t) for t in texts)


# --- ages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("065Y", 65), ("018M", 1.5), ("012W", 12 * 7 / 365.25), ("003D", 3 / 365.25), (" 65Y", 65),
        ("65", None), ("", None), ("000Y", None), ("90+", None), ("-03Y", None), ("065y", None),
    ],
)  # fmt: skip
def test_the_four_forms_of_an_age(text, years):
    assert parse_age(text) == (None if years is None else pytest.approx(years))


@pytest.mark.parametrize(
    ("tags", "years", "capped"),
    [
        ({"PatientAge": "089Y"}, 89, False),
        ({"PatientAge": "090Y"}, 90, True),
        ({"PatientAge": "101Y"}, 90, True),
        ({"PatientBirthDate": "19500701", "AcquisitionDate": "20201231"}, 70.5, False),
        ({"PatientBirthDate": "19250101", "AcquisitionDate": "20201231"}, 90, True),
        ({"PatientAge": "065Y", "PatientBirthDate": "19900101", "StudyDate": "20200101"}, 65, False),
        ({"PatientAge": "000Y", "PatientBirthDate": "19900101", "StudyDate": "20200101"}, 30, False),
    ],
)  # fmt: skip
def test_ages_over_89_are_90(tags, years, capped):
    attrs = header_attrs(dataset(**tags))
    assert attrs == {"age_years": pytest.approx(years, abs=0.01), "age_capped": capped}


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"PatientBirthDate": "19500101"},
        {"PatientBirthDate": "20210101", "StudyDate": "20200101"},
        {"PatientBirthDate": "18500101", "StudyDate": "20200101"},
        {"PatientAge": "130Y"},
    ],
)
def test_an_age_is_never_guessed(tags):
    assert header_attrs(dataset(**tags)) == {}


def test_an_age_in_no_form_of_the_standard_gives_way_to_the_dates():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pydicom does not like the value either
        header = dataset(PatientAge="90+", PatientBirthDate="19900101", StudyDate="20200101")
        assert header_attrs(header) == {
            "age_years": pytest.approx(30, abs=0.01),
            "age_capped": False,
        }
        assert header_attrs(dataset(PatientAge="90+")) == {}


def test_a_capped_table_says_90_where_the_ages_are_89_90_101_and_90_plus(tmp_path):
    (tmp_path / "people.csv").write_text(
        "ID,age\na,89\nb,90\nc,101\nd,90+\ne,89.5\n", encoding="utf-8"
    )
    spec = ParticipantsTable(table=["people.csv"], id="ID", cap_ages=True)
    table = read_participants(spec, tmp_path).table
    assert table["age"].tolist() == [89, 90, 90, 90, 90]
    assert table["age_capped"].tolist() == [0, 1, 1, 1, 1]


# --- dates -----------------------------------------------------------------------------------------------------------


DAYS = st.dates(date(1980, 1, 1), date(2015, 12, 31))
"""Within forty years, and still in those of scanners when they are shifted."""


@given(
    scans=st.dictionaries(
        st.text(min_size=1), st.tuples(st.sampled_from("abc"), DAYS), max_size=12
    ),
    shift=st.integers(-3000, 3000),
)
def test_only_the_days_between_the_visits_of_a_person_are_left(scans, shift):
    def days(by):
        return days_since_first_scan(
            {scan: (who, f"{day + timedelta(by):%Y%m%d}") for scan, (who, day) in scans.items()}
        )

    shown = [f"{day + timedelta(by):%m%d}" for _, day in scans.values() for by in (0, shift)]
    assume("0101" not in shown)  # may be a dummy
    found = days(0)
    assert found == days(shift)  # the dates themselves are gone
    assert found.keys() == scans.keys()
    for who in {who for who, _ in scans.values()}:
        mine = {scan: day for scan, (subject, day) in scans.items() if subject == who}
        assert min(found[scan] for scan in mine) == 0
        for one, other in itertools.product(mine, mine):
            assert found[one] - found[other] == (mine[one] - mine[other]).days


def test_a_scan_without_a_date_has_no_days_and_does_not_move_the_others():
    dates = {
        "a": ("s", "20200301"), "b": ("s", ""), "c": ("s", "20200228"), "d": ("t", "00000000"),
        "e": ("t", "2020-01-01"), "f": ("t", " 20200101"), "g": ("s", "20201301"),
    }  # fmt: skip
    assert days_since_first_scan(dates) == {"a": 2, "c": 0, "f": 0}


@pytest.mark.parametrize("dummy", ["19000101", "19700101", "18991231", "20000101", "99991231"])
def test_a_dummy_for_a_date_makes_no_absolute_date_of_the_others(dummy):
    dates = {
        "a": ("s", dummy),
        "b": ("s", "20240228"),
        "c": ("s", "20240301"),
        "d": ("t", "20200101"),
    }
    assert days_since_first_scan(dates) == {"b": 0, "c": 2, "d": 0}


def test_of_dates_further_apart_than_any_study_none_counts():
    far = {"a": ("s", "19750605"), "b": ("s", "20240228")}
    assert days_since_first_scan(far) == {}
    assert days_since_first_scan(far | {"b": ("s", "20140228")}) == {"a": 0, "b": 14148}
    new_year = {"a": ("s", "20200101"), "b": ("s", "20240228")}
    assert days_since_first_scan(new_year) == {"a": 0, "b": 1519}


# --- headers -------------------------------------------------------------------------------------------------------


def test_what_may_pass_passes():
    attrs = header_attrs(
        dataset(
            Modality="MR", Manufacturer="SIEMENS Healthineers", ManufacturerModelName="MAGNETOM Prisma_fit",
            MagneticFieldStrength="3", RepetitionTime="2300", EchoTime="2.98", InversionTime="900",
            FlipAngle="9", SliceThickness="1", ScanningSequence=["GR", "IR"], SequenceVariant=["SK", "SP", "MP"],
            MRAcquisitionType="3D", BodyPartExamined="BRAIN", PatientSex="F", PatientAge="031Y",
        )
    )  # fmt: skip
    assert attrs == {
        "modality": "MR", "manufacturer": "siemens", "manufacturer_model": "magnetom prisma_fit",
        "field_strength_t": 3.0, "repetition_time_ms": 2300.0, "echo_time_ms": 2.98,
        "inversion_time_ms": 900.0, "flip_angle_deg": 9.0, "slice_thickness_mm": 1.0,
        "scanning_sequence": "GR\\IR", "sequence_variant": "SK\\SP\\MP", "acquisition_type": "3D",
        "body_part": "BRAIN", "sex": "F", "age_years": 31.0, "age_capped": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "passed"),
    [
        ("DISCOVERY MR750w", "discovery mr750w"),
        ("Signa HDxt", "signa hdxt"),
        ("Achieva of Dr Jane Doe", "achieva"),
        ("Jane Doe 750", None),
        ("Prisma 19870605", "prisma"),
        ("Prisma 2024-01-02", "prisma"),
        ("Skyra room 117 JD45 MRN123", "skyra"),
        ("Skyra JD45", "skyra"),
        ("MRN123 450 Skyra", "450 skyra"),
        ("Skyra of Vida 64", "skyra"),
        ("Biograph 64 mCT", "biograph 64 mct"),
        ("SOMATOM Definition AS+", "somatom definition as+"),
    ],
)
def test_only_known_words_of_a_model_pass(model, passed):
    assert header_attrs(dataset(ManufacturerModelName=model)).get("manufacturer_model") == passed


def test_gauss_becomes_tesla():
    assert header_attrs(dataset(MagneticFieldStrength="15000")) == {"field_strength_t": 1.5}


def test_a_lossy_source_is_marked():
    assert header_attrs(dataset(LossyImageCompression="01")) == {"lossy": True}
    assert header_attrs(dataset(LossyImageCompression="00")) == {}


def test_no_text_of_any_tag_passes():
    secret = "CANARY7Q"
    text = {"LO", "SH", "ST", "LT", "UT", "PN", "CS", "UC", "AE"}
    filled = pydicom.Dataset()
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if vr in text and keyword and keyword != "SpecificCharacterSet":
            filled.add_new(tag, vr, secret)
    assert len(filled) > 1000
    filled.private_block(0x0029, secret, create=True).add_new(1, "LO", secret)
    assert header_attrs(filled) == {"manufacturer": "other"}
