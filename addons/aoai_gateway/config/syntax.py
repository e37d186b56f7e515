"""What is wrong with a file that is not YAML: in plain words, and at the line that has to be changed.

The parser stops where it cannot go on, which is often below the mistake: at the key after an open bracket,
or at the end of a file with an open quote. Where it tells what it was in the middle of, that counts.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from aoai_gateway.config.problems import Place, Problem, problem

_QUOTE_VARIABLES = 'inside [ ] and { }, put quotes around it: "${NAME}"'
_SYNTAX = (
    (r".*undefined alias", "an alias has no anchor", 'quote a value that begins with "*"'),
    (
        r".*mapping values are not allowed",
        'a ":" cannot stand here',
        "check the indentation, or quote the value",
    ),
    (r".*could not find expected ':'", 'a ":" is missing after a key', None),
    (r".*',' or '[]}]'", 'a "," or a closing bracket is missing', None),
    (r".*another document", "a second document begins", 'remove the "---"'),
    (r".*duplicate anchor", "an anchor is used twice", None),
    (r".*node content", "a value or a closing bracket is missing", None),
    (r".*end of stream", "a quote that opens here is not closed", None),
    (r".*escape character", 'not a known escape after "\\"', "in single quotes, it is just a character"),
    (r".*(characters are not allowed)", "a control character", None),
    (r".*expected.*(block end|key|indicator|document start)", "the indentation does not fit", None),
)
"""How we say what PyYAML's own parser says."""

_NO_SPACE = re.compile(r"\s*(?:- +)?[\w-]+:[^\s:]")
"""A line whose key has nothing between its colon and its value."""

_ODD_BLANK = re.compile(r"[ \t]*[^\S \t]")
"""An indentation with a blank that is neither a space nor a tab, as web pages and chats give it."""


def syntax_problem(file: Path, text: str, error: yaml.YAMLError) -> Problem:
    """Return what a parser found. Its own words can repeat a piece of a value: they are not used."""
    error = _in_known_words(text) or error
    lines = text.splitlines()
    line, column = _position(text, error)
    message, suggestion = _message(error, _character(lines, line, column))
    for found, plainly, advice in _mistakes_before(lines, line, error):
        return problem(Place(file, found, 1), "", f"YAML: {plainly}", advice)
    opened = getattr(error, "context_mark", None)
    if opened is not None and opened.line + 1 < line and _is_about_what_was_opened(error):
        if "bracket" in message:
            message += f" before line {line}"
        line, column = opened.line + 1, opened.column + 1
    if "',' or" in _said(error) and any("${" in near for near in lines[line - 1 : line + 1]):
        suggestion = _QUOTE_VARIABLES
    return problem(Place(file, line, column), "", f"YAML: {message}", suggestion)


def _in_known_words(text: str) -> yaml.YAMLError | None:
    """Have PyYAML's own parser, slow and long the same, judge what libyaml refused in its words."""
    try:
        yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        return error
    return None


def _said(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or getattr(error, "reason", None))


def _position(text: str, error: yaml.YAMLError) -> tuple[int, int]:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        return mark.line + 1, mark.column + 1
    # A ReaderError knows only the index of the character that YAML does not allow.
    return text.count("\n", 0, getattr(error, "position", 0)) + 1, 1


def _character(lines: list[str], line: int, column: int) -> str:
    written = lines[line - 1] if line <= len(lines) else ""
    return written[column - 1 : column]


def _message(error: yaml.YAMLError, character: str) -> tuple[str, str | None]:
    said = _said(error)
    if "cannot start any token" in said:
        if character == "\t":
            return "a tab stands where spaces are expected", "indent with spaces"
        return f'a value cannot begin with "{character}"', "put quotes around it"
    for pattern, plainly, advice in _SYNTAX:
        if re.match(pattern, said):
            return plainly, advice
    return "something is not YAML", None


def _mistakes_before(
    lines: list[str], line: int, error: yaml.YAMLError
) -> Iterator[tuple[int, str, str | None]]:
    """What is seen in the text, and only later makes the parser stop: line, message and suggestion."""
    for number in (line, line - 1):
        written = lines[number - 1] if 0 < number <= len(lines) else ""
        if _ODD_BLANK.match(written):
            yield number, "the indentation holds a blank that is not a space", "indent with spaces"
        is_about_a_colon = "expected ':'" in _said(error) or "mapping values" in _said(error)
        if is_about_a_colon and number < line and _NO_SPACE.match(written) and ": " not in written:
            yield number, 'a space is missing after the ":"', None


def _is_about_what_was_opened(error: yaml.YAMLError) -> bool:
    opens = ("flow sequence", "flow mapping", "quoted scalar", "simple key")
    return any(each in str(getattr(error, "context", "")) for each in opens)
