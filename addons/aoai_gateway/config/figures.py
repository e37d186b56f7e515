"""Numbers as people write them, where a plain one is expected: ``5,000``, ``5k``, ``50%``, ``10s``."""

import re
from decimal import Decimal

_GROUPS = re.compile(r"[1-9]\d{0,2}(?:([,'. ])\d{3})(?:\1\d{3})*", re.ASCII)
_DECIMAL_COMMA = re.compile(r"(?:0,\d{1,6}|\d{1,6},\d{1,2})", re.ASCII)
"""Not ``1,500``: that may be more than a thousand."""
_WITH_UNIT = re.compile(
    r"(\d{1,15}(?:\.\d{1,6})?) ?(%|k|s|sec|seconds|ms|tokens|tpm|rpm|mb)", re.ASCII | re.IGNORECASE
)
_FACTORS = {"%": Decimal("0.01"), "k": Decimal(1000), "ms": Decimal("0.001")}
"""What a unit stands for; any other is the one in which the value is meant anyway."""
_THOUSANDS = {"k": Decimal(1), "tokens": Decimal("0.001"), "tpm": Decimal("0.001")}
"""The same where the value is one of thousands."""


def without_unit(text: str, *, whole: bool, in_thousands: bool = False) -> str | None:
    """Return the plain number that a text stands for; None where that is not certain.

    :param whole: whether only a whole number will do.
    :param in_thousands: whether the number counts thousands, so that ``5k`` is 5.
    """
    number: Decimal | None = None
    if whole and _GROUPS.fullmatch(text):
        number = Decimal(re.sub(r"\D", "", text))
    elif not whole and _DECIMAL_COMMA.fullmatch(text):
        number = Decimal(text.replace(",", "."))
    elif match := _WITH_UNIT.fullmatch(text):
        unit = match[2].lower()
        factor = _THOUSANDS.get(unit) if in_thousands else _FACTORS.get(unit, Decimal(1))
        number = Decimal(match[1]) * factor if factor is not None else None
    if number is None:
        return None
    is_whole = number == number.to_integral_value()
    if is_whole:
        return f"{number:.0f}"
    return None if whole else f"{number.normalize():f}"
