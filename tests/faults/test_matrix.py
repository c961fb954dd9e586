"""The fault matrix holds what it should."""

from faults.matrix import TABLE, faults, needed_rows, table


def test_every_row_has_a_test():
    tested = {fault.row for fault in faults()}
    assert [row for row in needed_rows() if row not in tested] == []


def test_the_page_is_what_the_tests_say():
    assert TABLE.read_text() == table(list(faults())), "run: python tests/faults/matrix.py"
