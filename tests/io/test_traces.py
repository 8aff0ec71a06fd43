"""What looks like an identity is found whatever stands around it, and numbers, digests and tokens are not."""

import hashlib
import traceback
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort.io.deidentify import Tokens
from cohort.io.private import Row
from cohort.io.traces import LONG, Originals, masked, shapes, without_paths

TELLING = {
    "person name": ["DOE^JANE", "van^der^Berg", "MÜLLER^JÖRG", "Yamada^Tarou=山田^太郎"],
    "uid": ["1.2.826.0.1.3680043.8.498.45787841905188114249", "1.3.12.2.1107.5", "0.1.2.3.4.5"],
    "date": [
        "19991231", "20240229", "1999-12-31", "1999/12/31", "1999.12.31", "31.12.1999", "31/12/1999",
        "19991231T101500", "19991231101500.123", "1999-12-31T10:15:00Z", "1999-12-31 10:15",
    ],
    "e-mail": ["jane.doe@clinic.org", "j+x@a-b.example.co.uk"],
    "url": ["https://pacs.clinic.org/wado?study=1", "s3://bucket/doe", "file:///etc/passwd"],
    "path": ["/data/jane/scans", "/data/DOE_JANE/im1", "~/scans/a", r"C:\scans\a", r"\\server\share\a"],
    "file name": ["IM0001.dcm", "doe_T1w.nii.gz", "a b.NII", "x.hdr"],
}  # fmt: skip
HARMLESS = [
    "2.25.329800735698586629295641978511506172918", "1.2.840.10008.1.2.4.90", "127.0.0.1", "3.14.15.9",
    "12345678", "20241301", "0.19991231", "1.19991231e5", "-0.20240101", "mm/s", "n_big / n_head",
    "0.45 * level", "and/or", "a <td>x</td> b", "rgb(0 0 0 / 50%)", "x ^ 2", "sub-abcdefghij234567",
    "http://www.w3.org/2000/svg", "@media (max-width: 1px)", "*.dcm", "GR\\IR", "gap 4.000 mm, expected 2.000",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(k, t) for k, texts in TELLING.items() for t in texts])
@pytest.mark.parametrize("around", ["{}", "seen {}.", "({})", 'a: "{}", b', "x\n{}\ny", "ä {} ä"])
def test_what_tells_who_somebody_is_is_found_in_any_sentence(kind, text, around):
    found = list(shapes(around.format(text)))
    assert kind in {trace.kind for trace in found}
    trace = next(trace for trace in found if trace.kind == kind)
    assert around.format(text)[trace.start :].startswith(trace.text)
    assert list(shapes(around.format(text), allowed={t.kind for t in found})) == []


@pytest.mark.parametrize("text", HARMLESS)
def test_what_tells_nothing_is_left_alone(text):
    assert list(shapes(text)) == []


@given(
    numbers=st.lists(st.floats(-1e6, 1e6)),
    counts=st.lists(st.integers(0, 10**7)),
    content=st.binary(),
    key=st.binary(min_size=32, max_size=32),
)
def test_numbers_digests_and_tokens_look_like_nobody(numbers, counts, content, key):
    words = [*map(repr, numbers), *map(str, counts), hashlib.sha256(content).hexdigest()]
    words += [Tokens(key).token("subject", str(content)), Tokens(key).uid(str(content))]
    assert list(shapes(" ".join(words))) == []


@given(
    folders=st.lists(st.text("abcDOE 1-_.é", min_size=1, max_size=6), min_size=2, max_size=4),
    quote=st.sampled_from("'\""),
)
def test_a_message_without_paths_has_none_and_keeps_its_words(folders, quote):
    path = "/" + "/".join(folders)
    said = without_paths(f"[Errno 2] No such file: {quote}{path}{quote}, line 3")
    assert said == f"[Errno 2] No such file: {quote}(a path){quote}, line 3"
    assert without_paths(said) == said
    assert not [
        t for t in shapes(without_paths(f"at {path.replace(' ', '')} x")) if t.kind == "path"
    ]


def test_a_traceback_without_paths_still_says_where():
    try:
        Path("/no such/DOE JANE.nii").read_bytes()
    except OSError:
        said = without_paths(traceback.format_exc())
    assert "DOE" not in said.partition("Traceback")[2].replace('Path("/no such/DOE JANE.nii")', "")
    assert 'File "io/test_traces.py", line ' in said
    assert "No such file or directory: '(a path)'" in said


@given(st.text(min_size=1))
def test_a_masked_text_shows_two_characters_at_most(text):
    shown = masked(text).removesuffix(f" ({len(text)} characters)")
    assert shown in ("…", f"{text[0]}…{text[-1]}")
    assert len(text) > 4 or shown == "…"


# --- originals -----------------------------------------------------------------------------------------------------

NEEDLES = st.lists(
    st.text("abcAB1-^é", min_size=4, max_size=12).filter(lambda t: not t.isdecimal()), min_size=1
)


@given(data=st.data(), needles=NEEDLES)
def test_originals_are_found_where_python_finds_them(data, needles):
    text = data.draw(st.text("abcAB1-^é .", max_size=30), label="before")
    text += data.draw(st.sampled_from(needles)) + data.draw(st.text("abcAB1-^é .", max_size=30))
    originals = Originals(Row(f"t{i}", "subject", needle) for i, needle in enumerate(needles))
    found = {(trace.start, trace.text) for trace in originals.in_text(text)}
    lowered, wanted = text.lower(), {needle.lower() for needle in needles}
    expected = {
        (start, text[start : start + len(needle)])
        for needle in wanted
        for start in range(len(lowered))
        if lowered.startswith(needle, start)
        and (
            len(needle.encode()) >= LONG
            or not any(
                c.isalnum()
                for c in (lowered[max(0, start - 1) : start] + lowered[start + len(needle) :][:1])
            )
        )
    }
    assert found == expected


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_an_original_written_into_the_voxels_is_found(dtype):
    originals = Originals([Row("t", "subject", "MRN 471-11")])
    voxels = np.random.default_rng(0).integers(0, 100, 5000).astype(dtype)
    assert list(originals.in_voxels(voxels.tobytes())) == []
    voxels[1234:1244] = np.frombuffer(b"MRN 471-11", "u1")
    (trace,) = originals.in_voxels(voxels.tobytes())
    assert (trace.text, trace.start) == ("mrn 471-11", 1234 * voxels.itemsize)


def scan(subject: str, *files: str) -> Row:
    return Row(f"sub-{subject}_ses-1_x", "scan", "name", files)


def test_of_a_path_what_one_subject_alone_has_counts():
    originals = Originals(
        [
            scan("a", "/data/study/DOE_JANE/mprage/im_jd.dcm"),
            scan("b", "/data/study/ROE_RICK/mprage/im_rr.dcm"),
        ]
    )

    def found(text):
        return [trace.text for trace in originals.in_text(text)]

    assert found("the data of the study, mprage") == []
    assert found("ask Doe_Jane") == ["Doe_Jane"]
    assert found("im_rr") == ["im_rr"]
    assert found("im_rrx") == []  # another word
    assert found("at /data/study/DOE_JANE/mprage/im_jd.dcm")[0].startswith("/data/study/DOE_JANE")


def test_words_that_every_store_has_name_nobody():
    originals = Originals(
        [scan("a", "/data/A1/Siemens/uint8.nii"), scan("b", "/data/B2/philips/DOE_JANE.nii")]
    )
    assert list(originals.in_text("manufacturer siemens, philips; dtype uint8")) == []
    assert [t.text for t in originals.in_text("uint8.nii and doe_jane")] == [
        "uint8.nii",
        "doe_jane",
    ]
    # Somebody who is called so is looked for all the same.
    assert len(Originals([Row("t", "subject", "siemens")])) == 1


def test_of_a_single_subject_plain_words_do_not_count():
    originals = Originals([scan("a", "/data/scans/Doe/image_1.dcm")])
    assert [t.text for t in originals.in_text("data scans image_1")] == ["image_1"]


def test_short_ids_and_numbers_are_not_looked_for():
    rows = [Row("t", "subject", text) for text in ("007", "12345", "ab", "A-1")]
    assert len(Originals(rows)) == 0
    assert len(Originals([*rows, Row("t", "subject", "123456"), Row("t", "subject", "A-17")])) == 2


def test_a_uid_is_found_without_the_digest_behind_it():
    originals = Originals([Row("t", "series", "1.2.3.4.5.678.0badcafe0badcafe")])
    assert {t.text for t in originals.in_text("series 1.2.3.4.5.678!")} == {"1.2.3.4.5.678"}


def test_what_a_store_keeps_is_not_looked_for():
    rows = [Row("a", "subject", "OAS1_0001"), scan("a", "/data/OAS1_0001/secret_x/OAS1_0001.nii")]
    assert {t.text for t in Originals(rows, keep=True).in_text("OAS1_0001.nii secret_x")} == {
        "secret_x"
    }
