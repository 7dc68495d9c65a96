from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workerkit.core.keys import Keys, checked_namespace, escape
from workerkit.errors import DefinitionError

TEXT = st.text(st.characters(), max_size=120)  # lone surrogates too


@given(TEXT, TEXT)
@example("a:b", "a%3Ab")
@example("", "~")
@example("A" * 80, "A" * 81)
@example("%", "%25")
@example("\ud800", "%ED%A0%80")
def test_different_texts_have_different_parts(left, right):
    assert (escape(left) == escape(right)) == (left == right)


@given(TEXT)
def test_no_part_can_steer_a_key(text):
    part = escape(text)
    assert part.isascii()
    assert 0 < len(part) <= 80
    assert not set(part) & set("{}:*?[]\\ \n\r\0")


def test_plain_names_stay_readable():
    assert escape("shop.tasks_balance-2@host") == "shop.tasks_balance-2@host"
    assert escape("a b") == "a%20b"


@given(TEXT, TEXT)
def test_a_key_has_one_hash_tag_chosen_by_name_and_part(name, part):
    key = Keys("wk", "c").key(escape(name), escape(part), "v")
    assert key == f"wk:c:{{{escape(name)}:{escape(part)}}}:v"
    assert key.count("{") == key.count("}") == 1


@pytest.mark.parametrize("namespace", ["", "a" * 33, "a:b", "a b", "ä", "{a}", "a\n", "*"])
def test_a_namespace_that_will_not_do_is_refused_with_what_to_write(namespace):
    with pytest.raises(DefinitionError, match="namespace='shop'"):
        checked_namespace(namespace)


def test_a_namespace_that_will_do():
    assert Keys("shop-1.a_b", "g").key("n", "p", "s") == "shop-1.a_b:g:{n:p}:s"
