import pytest

from hangwatch.rules.versions import key, satisfies


@pytest.mark.parametrize(("version", "specifier", "answer"), [
    ("0.12.2", "<0.12.3", True), ("0.12.3", "<0.12.3", False), ("0.9", "<0.12.3", True), ("0.12.10", "<0.12.3", False), ("0.12.3rc1", "<0.12.3", True),
    ("11.0.1", ">=11.0,<11.0.2", True), ("10.4", ">=11.0,<11.0.2", False), ("1.0", "==1.0.0", True), ("3.8.5", "==3.8.*", True), ("3.80", "==3.8.*", False),
    ("3.9", "!=3.8.*", True), ("2.2.1", "~=2.2", True), ("3.0", "~=2.2", False), ("1.4.6", "~=1.4.5", True), ("1.5", "~=1.4.5", False),
    ("4.1", "<3 || >=4", True), ("3.5", "<3 || >=4", False), ("1.0.post1", ">1.0", True), ("1.0.dev3", "<1.0a1", True), ("1!0.1", ">99", True),
    ("2.1.0+cu118", "==2.1.0", True), ("anything", "*", True), ("main", "<2", None), ("1.0", "whatever", None),
])  # fmt: skip
def test_specifiers(version, specifier, answer):
    assert satisfies(version, specifier) is answer


def test_order_of_the_specification():
    ordered = ["1.0.dev1", "1.0a1.dev1", "1.0a1", "1.0b2", "1.0rc1", "1.0", "1.0.post1.dev1", "1.0.post1", "1.1.dev1", "1.1"]
    keys = [key(version) for version in ordered]
    assert keys == sorted(keys)
