# intent_ref: tests.execution-patterns
"""The keys under which steps share slots: as they are, or, where they are long, told apart by what they are in full."""

from commands.beginnings import SLOT_KEY_CHARS_MAX, slot_key_of


def test_a_key_that_fits_is_kept_as_it_is() -> None:
    assert slot_key_of("eu-west") == "eu-west"
    assert slot_key_of("k" * SLOT_KEY_CHARS_MAX) == "k" * SLOT_KEY_CHARS_MAX


def test_long_keys_that_begin_alike_share_no_slot() -> None:
    long, other = "k" * 500 + "a", "k" * 500 + "b"
    assert slot_key_of(long) != slot_key_of(other)
    assert slot_key_of(long) == slot_key_of(long)
    assert len(slot_key_of(long)) == SLOT_KEY_CHARS_MAX


def test_a_key_that_is_no_text_in_utf_8_is_told_apart_too() -> None:
    assert len(slot_key_of("\ud800" * 300)) == SLOT_KEY_CHARS_MAX
