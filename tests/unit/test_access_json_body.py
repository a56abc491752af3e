# intent_ref: access.json-body
"""Whatever bytes a client sends, they are an object that can be kept exactly, or a 400 or 422 that says why not."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from access.http.json_body import DEPTH_MAX, parse_object, pointer, validated
from access.http.problems import KINDS, Problem

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just("a\0b"),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4),
    max_leaves=12,
)


def refused(raw: bytes) -> tuple[str, list[tuple[str, str]]]:
    with pytest.raises(Problem) as problem:
        parse_object(raw)
    return problem.value.code, [(fault.pointer, fault.code) for fault in problem.value.faults]


def nested(depth: int, opening: bytes = b'{"a":', closing: bytes = b"}") -> bytes:
    return opening * (depth - 1) + b"{}" + closing * (depth - 1)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read_or_refused_with_a_client_error(raw: bytes):
    try:
        value = parse_object(raw)
    except Problem as problem:
        assert KINDS[problem.code].status in (400, 422)
    else:
        assert value == json.loads(raw)
        assert orjson.loads(orjson.dumps(value)) == value


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), VALUES, min_size=1))
def test_a_nul_anywhere_is_pointed_at(body: dict[str, Any]):
    body = {**body, "here": ["fine", "not\0fine"]}
    raw = json.dumps(body).encode()
    code, faults = refused(raw)
    if code == "validation-failed" and faults[0][1] == "nul-character":
        assert "/here/1" in [place for place, _ in faults]


@pytest.mark.parametrize(
    "raw",
    [b"", b" ", b"{", b'{"a":NaN}', b'{"a":Infinity}', b'{"a":1e999}', b'{"a":\xff}', b'{"a":"\xff"}', b'{"a":"\\ud800"}',
     b"\xef\xbb\xbf{}", b"{'a':1}", b'{"a":1,}', b'{"a":01}', b'{"a":"\x00"}', b"{}{}", b"\x00", b"[" * 100_000, b"<a/>"],
)  # fmt: skip
def test_what_is_not_json_is_said_to_be_not_json(raw: bytes):
    assert refused(raw) == ("not-json", [])


@pytest.mark.parametrize("raw", [b"[]", b"1", b'"x"', b"null", b"true", b"[{}]"])
def test_the_body_must_be_an_object(raw: bytes):
    assert refused(raw) == ("validation-failed", [("", "not-an-object")])


def test_depth_has_a_limit_and_up_to_it_all_is_well():
    assert parse_object(nested(DEPTH_MAX))
    assert refused(nested(DEPTH_MAX + 1)) == ("validation-failed", [("", "too-deep")])
    assert refused(b'{"a":' + b"[" * DEPTH_MAX + b"]" * DEPTH_MAX + b"}") == ("validation-failed", [("", "too-deep")])
    assert refused(nested(50_000)) == ("not-json", [])


def test_what_is_accepted_can_be_written_again():
    assert orjson.dumps([[parse_object(nested(DEPTH_MAX))]])


def test_wide_is_not_deep():
    assert len(parse_object(b'{"a":[' + b",".join([b"{}"] * 5000) + b"]}")["a"]) == 5000


def test_nul_characters_are_refused_wherever_they_are():
    raw = rb'{"a":"x\u0000","b":[1,{"c/d":"\u0000","e\u0000":1}],"f":"\\u0000"}'
    code, faults = refused(raw)
    assert code == "validation-failed"
    assert sorted(faults) == [
        ("/a", "nul-character"),
        ("/b/1/c~1d", "nul-character"),
        (r"/b/1/e\u0000", "nul-character"),
    ]


def test_an_escaped_backslash_before_u0000_is_no_nul():
    assert parse_object(rb'{"f":"\\u0000"}') == {"f": r"\u0000"}


@pytest.mark.parametrize("number", ["18446744073709551616", "-9223372036854775809", "9" * 25, "-" + "9" * 300])
def test_an_integer_that_would_be_rounded_is_refused(number: str):
    assert refused(f'{{"a":{{"b":[0,{number}]}}}}'.encode()) == ("validation-failed", [("/a/b/1", "integer-too-large")])


@pytest.mark.parametrize(
    ("text", "value"),
    [("18446744073709551615", 2**64 - 1), ("-9223372036854775808", -(2**63)), ("0.1234567890123456789012", 0.12345678901234568),
     ('"99999999999999999999999"', "9" * 23), ("1e30", 1e30)],
)  # fmt: skip
def test_what_fits_is_kept(text: str, value: Any):
    assert parse_object(f'{{"a":{text}}}'.encode()) == {"a": value}


def test_the_last_of_repeated_keys_counts():
    assert parse_object(b'{"a":1,"a":2}') == {"a": 2}


def test_a_body_full_of_faults_is_refused_in_bounded_space():
    code, faults = refused(b'{"a":[' + b",".join([b'"\\u0000"'] * 20_000) + b"]}")
    assert (code, len(faults)) == ("validation-failed", 100)
    deep = b'{"a":' * 150 + b"[" + b",".join([b"99999999999999999999999"] * 20_000) + b"]" + b"}" * 150
    code, faults = refused(deep)
    assert (code, len(faults)) == ("validation-failed", 100)


class Tea(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    kind: str
    cups: int
    added: list[dict[str, int]] = []


def test_every_fault_of_a_model_is_pointed_at():
    with pytest.raises(Problem) as problem:
        validated(Tea, {"kind": 1, "cups": "2", "added": [{"a/b": "x"}, 3], "milk~": True})
    assert [fault.pointer for fault in problem.value.faults] == ["/kind", "/cups", "/added/0/a~1b", "/added/1", "/milk~0"]
    assert "input_value" not in str([fault.detail for fault in problem.value.faults])


def test_pointers_follow_rfc_6901():
    assert (pointer(()), pointer(("a/b", "m~n", 0, "")), pointer((" ",))) == ("", "/a~1b/m~0n/0/", "/ ")
