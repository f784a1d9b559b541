"""The worker's side: what an error says."""

import pytest

from ms_adam.lab.errors import UserError
from ms_adam.lab.run.worker import message_of, short_message

LINE = "-" * 20


@pytest.mark.parametrize(
    "text, says",
    [
        (f"wrong\n\n{LINE}\n- C++ Call Stack:\n{LINE}\nsomewhere", "wrong"),
        (f"{LINE}\n- Description:\n{LINE}\nwrong\n\n{LINE}\n- Stack\n{LINE}\nsomewhere", "wrong"),
        ("wrong - and more", "wrong - and more"),
        ("", "ValueError"),
    ],
)
def test_errors_are_told_without_call_stacks(text, says):
    assert short_message(ValueError(text)) == says


def test_only_a_fault_of_ours_is_told_with_its_class():
    assert message_of(UserError("no such file")) == "no such file"
    assert message_of(ValueError("no")) == "ValueError: no"
