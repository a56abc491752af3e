# intent_ref: access.headers
"""Preconditions, idempotency keys, positions and trace parents, read as their standards say."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from access.http.headers import (
    command_identity,
    entity_tag,
    expected_versions,
    is_unchanged,
    min_position,
    position_header,
    traceparent,
)
from access.http.problems import Problem
from access.principal import Principal
from domain.values import TenantId

ADA = Principal("ada", (TenantId("t"),), frozenset(), "i", 0, 0)
BOB = Principal("bob", (TenantId("t"),), frozenset(), "i", 0, 0)
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def request(*headers: tuple[str, str], method: str = "POST", path: str = "/x") -> Request:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return Request({"type": "http", "method": method, "path": path, "headers": raw, "query_string": b""})


def code_of(call: Any, *arguments: Any) -> str:
    with pytest.raises(Problem) as problem:
        call(*arguments)
    return problem.value.code


@pytest.mark.parametrize(
    ("value", "versions"),
    [('"3"', (3,)), ('"3-deprecated"', (3,)), ("*", None), (" * ", None), ('"1", "2"', (1, 2)), ('"1","2" ,"3"', (1, 2, 3)),
     ('W/"3"', ()), ('W/"3", "4"', (4,)), ('"abc"', ()), ('"0"', ()), ('"01"', ()), ('""', ()), ('"99999999999"', ()),
     ('"a,b", "2"', (2,)), (',"3",', (3,)), ('"\xe9"', ())],
)  # fmt: skip
def test_if_match_names_versions(value: str, versions: tuple[int, ...] | None):
    assert expected_versions(request(("If-Match", value))) == versions


def test_if_match_over_several_lines_is_one_list():
    assert expected_versions(request(("If-Match", '"1"'), ("If-Match", '"2"'))) == (1, 2)


@pytest.mark.parametrize("value", ["3", '"3', "abc", '"3" "4"', 'w/"3"', '"3"; "4"', "", ",", '*, "3"', '"3", *', "W/3"])
def test_if_match_without_sense_is_a_bad_request(value: str):
    assert code_of(expected_versions, request(("If-Match", value))) == "header-invalid"


def test_if_match_is_asked_for():
    assert code_of(expected_versions, request()) == "precondition-missing"


@given(st.text(st.characters(max_codepoint=255), max_size=60))
def test_no_if_match_causes_an_accident(value: str):
    try:
        expected_versions(request(("If-Match", value)))
    except Problem as problem:
        assert problem.code == "header-invalid"


@pytest.mark.parametrize(
    ("value", "unchanged"),
    [('"3"', True), ('W/"3"', True), ("*", True),
     ('"2", W/"3"', True), ('"2"', False), ('"33"', False), ('"3-deprecated"', False)],
)  # fmt: skip
def test_if_none_match_compares_weakly(value: str, unchanged: bool):
    assert is_unchanged(request(("If-None-Match", value)), entity_tag(3)) is unchanged


def test_a_status_that_is_not_active_shows_in_the_tag():
    assert (entity_tag(3), entity_tag(3, "deprecated")) == ('"3"', '"3-deprecated"')
    assert not is_unchanged(request(("If-None-Match", entity_tag(3))), entity_tag(3, "deprecated"))


def test_without_a_key_each_request_is_a_new_command():
    first, second = (command_identity(request(), "t", ADA, b"{}") for _ in range(2))
    assert first.command_id != second.command_id
    assert first.request_hash is second.request_hash is None


def test_a_key_gives_the_same_command_again():
    first, second = (command_identity(request(("Idempotency-Key", "k")), "t", ADA, b"{}") for _ in range(2))
    assert first == second
    assert first.request_hash is not None


def test_another_tenant_subject_method_path_or_key_is_another_command():
    key = ("Idempotency-Key", "k")
    identities = [
        command_identity(request(key), "t", ADA, b"{}"),
        command_identity(request(key), "u", ADA, b"{}"),
        command_identity(request(key), "t", BOB, b"{}"),
        command_identity(request(key, method="PUT"), "t", ADA, b"{}"),
        command_identity(request(key, path="/y"), "t", ADA, b"{}"),
        command_identity(request(("Idempotency-Key", "K")), "t", ADA, b"{}"),
    ]
    assert len({one.command_id for one in identities}) == len(identities)


def test_another_body_is_the_same_command_with_another_hash():
    first, second = (command_identity(request(("Idempotency-Key", "k")), "t", ADA, body) for body in (b"{}", b"{ }"))
    assert first.command_id == second.command_id
    assert first.request_hash != second.request_hash


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "\xe9", "a\x7fb"])
def test_a_key_must_be_printable_and_of_bounded_length(key: str):
    assert code_of(command_identity, request(("Idempotency-Key", key)), "t", ADA, b"") == "header-invalid"


def test_two_keys_are_one_too_many():
    two = request(("Idempotency-Key", "a"), ("Idempotency-Key", "b"))
    assert code_of(command_identity, two, "t", ADA, b"") == "header-invalid"


def test_positions_go_out_and_come_back():
    assert min_position(request(("Quantum-Min-Position", position_header(42)))) == 42
    assert min_position(request()) is None


@pytest.mark.parametrize("token", ["", "42", "x" * 500, "cTEu", "q1.42", "\xe9\xe9\xe9\xe9\xe9\xe9\xe9"])
def test_a_position_that_was_never_given_is_refused(token: str):
    assert code_of(min_position, request(("Quantum-Min-Position", token))) == "position-invalid"


@pytest.mark.parametrize(
    ("given_parent", "kept"),
    [(PARENT, PARENT), (PARENT.replace("00-4", "01-4") + "-more", PARENT.replace("00-4", "01-4")), (PARENT.upper(), None),
     (PARENT.replace("00-4", "ff-4"), None), ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", None), ("x", None), ("", None),
     ("00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01", None)],
)  # fmt: skip
def test_a_valid_parent_from_outside_is_kept(given_parent: str, kept: str | None):
    assert traceparent(request(("traceparent", given_parent))) == kept
