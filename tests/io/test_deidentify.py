"""Tokens that only the key can trace, ages that name nobody, and headers of which only listed words pass."""

import re
import stat
import threading

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary

from cohort.io.deidentify import KeyFileError, Tokens, header_attrs, load_key, parse_age

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


def test_guessing_numbers_without_the_key_finds_nothing():
    token = Tokens(KEY).token("subject", "31337")
    guesser = Tokens(bytes(32))
    assert all(guesser.token("subject", str(n)) != token for n in range(30_000, 33_000))


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
