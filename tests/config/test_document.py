"""YAML with places: what is read, what is refused, and where the problem is said to be."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aoai_gateway.config import document
from aoai_gateway.config.document import MAX_DEPTH, MAX_NODES, Mapping, find, parse, plain

FILE = Path("gateway.yaml")


def read(text: str) -> object:
    tree, problems = parse(FILE, text.encode())
    assert problems == []
    assert tree is not None
    return plain(tree)


def refused(text: str | bytes) -> list[str]:
    _, problems = parse(FILE, text if isinstance(text, bytes) else text.encode())
    return [str(problem) for problem in problems]


def test_scalars_stay_the_text_that_was_written():
    assert read("a: 0123\nb: 1e3\nc: yes\nd: 12:30\ne: 2024-01-01\nf: '5'\ng: 1.10\n") == {
        "a": "0123",
        "b": "1e3",
        "c": "yes",
        "d": "12:30",
        "e": "2024-01-01",
        "f": "5",
        "g": "1.10",
    }


def test_null_is_not_written_but_a_quoted_one_is():
    assert read("a:\nb: ~\nc: null\nd: 'null'\n") == {"d": "null"}


def test_an_empty_file_is_an_empty_mapping():
    assert read("") == {}
    assert read("# only a comment\n") == {}


def test_a_byte_order_mark_is_no_part_of_the_first_key():
    tree, problems = parse(FILE, b"\xef\xbb\xbfa: 1\n")
    assert problems == []
    assert tree is not None
    assert plain(tree) == {"a": "1"}


def test_find_gives_the_place_of_keys_and_of_items():
    tree, _ = parse(FILE, b"aoai:\n  endpoints:\n    - name: a\n      url: b\n    - name: c\n")
    assert tree is not None
    places = {
        path: (find(tree, path)[2].line, find(tree, path)[2].column)
        for path in [
            ("aoai",),
            ("aoai", "endpoints", 0),
            ("aoai", "endpoints", 0, "url"),
            ("aoai", "endpoints", 1),
        ]
    }
    assert places == {
        ("aoai",): (1, 1),
        ("aoai", "endpoints", 0): (3, 7),
        ("aoai", "endpoints", 0, "url"): (4, 7),
        ("aoai", "endpoints", 1): (5, 7),
    }


def test_find_passes_over_what_is_not_there():
    tree, _ = parse(FILE, b"a:\n  b: 1\n")
    assert tree is not None
    path, _, place = find(tree, ("a", "over all", "b", 7))
    assert path == ("a", "b")
    assert place.line == 2


def test_aliases_and_merge_keys():
    assert read("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\nz: *x\n") == {
        "x": {"a": "1", "b": "2"},
        "y": {"b": "3", "a": "1"},
        "z": {"a": "1", "b": "2"},
    }


def test_of_several_merged_mappings_the_earlier_wins():
    assert read("x: &x {a: 1}\ny: &y {a: 2, b: 2}\nz: {<<: [*x, *y], c: 3}\n")["z"] == {  # type: ignore[index]
        "a": "1",
        "b": "2",
        "c": "3",
    }


def test_a_merge_key_must_name_a_mapping():
    assert refused("a: {<<: 1}") == ['gateway.yaml:1: a: "<<" must name a mapping']


def test_every_repeated_key_is_a_problem():
    assert refused("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n") == [
        "gateway.yaml:4: b.c: is written twice, first in line 3",
        "gateway.yaml:5: a: is written twice, first in line 1",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a: !secret-value x",
        "a: !!python/object:os.system x",
        "a: !!binary aGk=",
        "a: !!set {x}",
        "a: !tag [x]",
    ],
)
def test_tags_are_refused_without_repeating_them(text: str):
    assert refused(text) == [
        'gateway.yaml:1: a: a YAML tag is not supported; quote a value that begins with "!"'
    ]


def test_a_key_must_be_a_single_text():
    assert refused("? [x]\n: 1\n") == ["gateway.yaml:1: a key must be a single word or text"]
    (said,) = refused("a: {{x: y}: 1, b: 2}\n")
    assert said.endswith('a key must be a single word or text; quote a value that begins with "{"')


def test_a_placeholder_of_a_template_is_said_to_be_one():
    (said,) = refused("a: {{ env.KEY }}\n")
    assert said.endswith("a: is a placeholder of a template, {{ … }}; fill it in, or write ${NAME}")


def test_an_alias_may_not_contain_itself():
    assert refused("a: &a\n  - *a\n") == ["gateway.yaml:1: an alias in line 1 contains itself"]


def test_a_billion_laughs_are_counted_not_laughed():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    assert refused("\n".join(lines)) == [
        f"gateway.yaml:1: has more than {MAX_NODES:,} values once its aliases are written out"
    ]


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000])
def test_deep_nesting_is_refused(text: str):
    # In a process of its own: what this guards against is a crash of the interpreter.
    program = (
        "import sys; from pathlib import Path; from aoai_gateway.config.document import parse\n"
        "print(*parse(Path('gateway.yaml'), sys.stdin.buffer.read())[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=text.encode(), capture_output=True, timeout=200, check=True
    )
    assert done.stdout.decode() == f"gateway.yaml:1: is nested more than {MAX_DEPTH} levels deep\n"


@pytest.mark.parametrize("loader", [yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:\n\tb: 1\n", "2: YAML: a tab stands where spaces are expected; indent with spaces"),
        ("a: @x\n", '1: YAML: a value cannot begin with "@"; put quotes around it'),
        ("a: %x\n", '1: YAML: a value cannot begin with "%"; put quotes around it'),
        ("a: b: c\n", '1: YAML: a ":" cannot stand here'),
        ("a: *nowhere\n", "1: YAML: an alias has no anchor"),
        ("a: 1\n---\nb: 2\n", "2: YAML: a second document begins"),
        ("a: [1 2}\n", '1: YAML: a "," or a closing bracket is missing'),
        # At the line that has to be changed, not where the parser noticed.
        ("a: [1, 2\nb: 3\n", '1: YAML: a "," or a closing bracket is missing before line 2'),
        ("a: {b: 1\n\nb: 3\n", '1: YAML: a "," or a closing bracket is missing before line 3'),
        ("a: 1\nb: 'x\nc: 1\n\n", "2: YAML: a quote that opens here is not closed"),
        ("a: 1\nb:2\nc: 3\n", '2: YAML: a space is missing after the ":"'),
        ("a:\n  b:2\n  c: 3\n", '2: YAML: a space is missing after the ":"'),
        ("a: 1\nword\nc: 3\n", '2: YAML: a ":" is missing after a key'),
        ("a:\n  b: 1\n\u00a0\u00a0c: 2\n  d: 3\n", "3: YAML: the indentation holds a blank that is not a"),
        ("a: [\n", "2: YAML: a value or a closing bracket is missing"),
        ("a: 'x\n", "1: YAML: a quote that opens here is not closed"),
        ('a: "\\q"\n', '1: YAML: not a known escape after "\\"'),
        ("ok: 1\na: \x07\n", "2: YAML: a control character"),
        ("- a\nb: 1\n", "2: YAML: the indentation does not fit"),
    ],
)
def test_syntax_errors_in_plain_words(loader: type, text: str, expected: str, monkeypatch):
    monkeypatch.setattr(document, "_Loader", loader)
    (said,) = refused(text)
    assert said.startswith(f"gateway.yaml:{expected}")


def test_a_variable_in_brackets_needs_quotes_and_the_message_says_so():
    (said,) = refused("clients:\n  - key: [${A}, ${B}]\n")
    assert said.startswith("gateway.yaml:2: ")
    assert said.endswith('put quotes around it: "${NAME}"')


def test_syntax_errors_do_not_repeat_values():
    (said,) = refused("key: *s3cr3t\n")
    assert "s3cr3t" not in said


def test_bytes_that_are_not_text():
    assert refused(b"a: 1\nb: \xff\n") == ["gateway.yaml:2: is not UTF-8 text; save the file as UTF-8"]


@given(st.binary(max_size=200))
def test_no_file_makes_it_raise(content: bytes):
    tree, problems = parse(FILE, content)
    assert tree is not None or problems


plain_text = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)


@given(
    st.dictionaries(
        plain_text,
        st.recursive(
            plain_text,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_text, inner, max_size=3),
            max_leaves=10,
        ),
        max_size=4,
    )
)
def test_what_was_dumped_is_read(value: dict[str, object]):
    tree, problems = parse(FILE, yaml.safe_dump(value, default_style='"').encode())
    assert problems == []
    assert isinstance(tree, Mapping)
    assert plain(tree) == value
