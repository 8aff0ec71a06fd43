"""YAML files: text stays text, and what PyYAML would let through is refused with its place."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cohort.io.yamlfile import MAX_BYTES, YamlError, parse_yaml, read_yaml


@pytest.mark.parametrize(
    "text",
    [
        "007",
        "no",
        "yes",
        "on",
        "off",
        "y",
        "12:30",
        "1_000",
        "0x1f",
        "0o17",
        "2026-01-31",
        ".inf",
        ".nan",
        "=",
        "<<",
    ],
)
def test_a_scalar_that_yaml_would_convert_stays_text(text):
    assert parse_yaml(f"key: {text}", name="x.yaml") == {"key": text}


# PyYAML breaks lines at some control characters and at U+2028.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=20)


@given(
    st.dictionaries(
        TEXT,
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | TEXT,
            lambda part: st.lists(part) | st.dictionaries(TEXT, part),
            max_leaves=8,
        ),
        min_size=1,
    )
)
def test_what_yaml_writes_is_read_back(content):
    text = yaml.dump(content, Dumper=_NoAliases, allow_unicode=True)
    assert parse_yaml(text, name="x.yaml") == content


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


def test_numbers_and_words_have_their_plain_meaning():
    text = "{a: -3, b: 1.5, c: 1e-3, d: true, e: null, f: ~, g: .5, h: 0}"
    assert parse_yaml(text, name="x.yaml") == {
        "a": -3, "b": 1.5, "c": 1e-3, "d": True, "e": None, "f": None, "g": 0.5, "h": 0,
    }  # fmt: skip


def test_a_merge_key_merges_nothing():
    assert parse_yaml("<<: {a: 1}", name="x.yaml") == {"<<": {"a": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x", r"^x.yaml: line 1, column 4: anchors .* not allowed"),
        ("a: *x", "anchors"),
        (
            "a: 1\nb: 2\na: 3",
            r"^x.yaml: line 3, column 1: the key 'a' is there twice, first in line 1",
        ),
        ("m: {a: 1, a: 2}", "the key 'a' is there twice"),
        ("a: !!python/object/apply:os.system [ls]", "line 1, column 4: tags are not allowed"),
        ("a: !!int '007'", "tags are not allowed"),
        ("a: !mine 3", "tags are not allowed"),
        ("? [a]\n: 1", "a key is a list or a mapping"),
        ("a: [1", r"line 1, column 6: expected ',' or ']'"),
        ("a: 1\n---\nb: 2", "line 2, column 1: .*another document"),
        ("a: \0", "unacceptable character"),
        ("- a", "expected a mapping .* found a list"),
        ("", "expected a mapping .* found nothing"),
        ("[" * 50_000, "nested too deeply"),
    ],
)
def test_a_file_that_could_surprise_is_refused_with_its_place(text, message):
    with pytest.raises(YamlError, match=message):
        parse_yaml(text, name="x.yaml")


def test_a_file_is_refused_by_size_before_it_is_parsed(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_text("a: " + "x" * MAX_BYTES)
    with pytest.raises(YamlError, match=f"{MAX_BYTES + 3} bytes; at most {MAX_BYTES}"):
        read_yaml(path)


def test_a_missing_file_and_another_encoding_are_told_in_one_line(tmp_path):
    with pytest.raises(YamlError, match=r"none.yaml: cannot be read \(No such file or directory\)"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("a: \xe9".encode("latin-1"))
    with pytest.raises(YamlError, match="byte 3 is not UTF-8"):
        read_yaml(tmp_path / "latin.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    (tmp_path / "mark.yaml").write_bytes(b"\xef\xbb\xbfcohort: a")
    assert read_yaml(tmp_path / "mark.yaml") == {"cohort": "a"}
