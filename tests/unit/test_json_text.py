"""Equal documents have one digest, and what makes two documents differ is named by its dotted key."""

from __future__ import annotations

from deepscaler.json_text import ABSENT, Difference, canonical_digest, differences, flattened


def test_the_order_of_keys_does_not_matter_to_the_digest() -> None:
    assert canonical_digest({"a": 1, "b": [{"d": 2, "c": "é"}]}) == canonical_digest(
        {"b": [{"c": "é", "d": 2}], "a": 1}
    )
    assert canonical_digest([1, 2]) != canonical_digest([2, 1])
    assert canonical_digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # of `{}`


def test_leaves_have_dotted_keys_and_numbered_entries() -> None:
    document = {"a": 1, "b": {"c": None, "d": [5, {"e": 6}]}, "empty": {}, "none": []}
    assert dict(flattened(document)) == {"a": 1, "b.c": None, "b.d.0": 5, "b.d.1.e": 6}


def test_differences_are_sorted_and_tell_absent_from_null() -> None:
    before, after = {"z": 1, "same": 2, "list": ["x", "y"]}, {"z": 2, "same": 2, "list": ["x"], "new": None}
    assert differences(before, after) == [
        Difference("list.1", "y", ABSENT),
        Difference("new", ABSENT, None),
        Difference("z", 1, 2),
    ]
    assert differences(before, before) == []
    assert [one.words() for one in differences(before, after)] == [
        'list.1: "y" -> absent',
        "new: absent -> null",
        "z: 1 -> 2",
    ]


def test_long_values_are_truncated_in_a_message() -> None:
    (one,) = differences({"text": "x" * 100}, {"text": "short"})
    assert one.words() == f'text: "{"x" * 36}... -> "short"'
