"""``${ENV_VAR}`` wherever a value stands.

``${NAME}`` is the variable's value, and a problem when it is not set; ``${NAME:-default}`` is the default
when it is unset or empty, as in a shell; ``$${`` writes ``${``. It is filled in after YAML has been read,
so its content is a value: it cannot add keys, lists or anchors, and is not looked at again.
"""

import re
from collections import abc

from aoai_gateway.config.document import Node, Scalar, transform
from aoai_gateway.config.problems import KeyPath, Problem, problem

_REFERENCE = re.compile(
    r"(?P<escaped>\$\$\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(:-(?P<default>[^}]*))?\}|(?P<odd>\$\{)"
)


def resolve(root: Node, env: abc.Mapping[str, str]) -> tuple[Node, list[Problem]]:
    """Fill in the variables; a value with a problem is marked, so that it is reported once."""
    problems: list[Problem] = []

    def change(scalar: Scalar, path: KeyPath) -> Scalar:
        if scalar.text is None or "${" not in scalar.text:
            return scalar
        found: list[Problem] = []

        def tell(message: str, suggestion: str) -> None:
            found.append(problem(scalar.place, path, message, suggestion))

        def value(match: re.Match[str]) -> str:
            if match["escaped"]:
                return "${"
            if match["odd"]:
                tell(
                    "holds a ${ that is not ${NAME} or ${NAME:-default}",
                    "write $${ to mean the two characters",
                )
                return ""
            name, default = match["name"], match["default"]
            if default is not None:
                return env.get(name) or default
            if name not in env:
                tell(f"the environment variable {name} is not set", f"set it, or write ${{{name}:-default}}")
            return env.get(name, "")

        text = _REFERENCE.sub(value, scalar.text)
        problems.extend(found)
        return Scalar(scalar.place, text, written=scalar.text, unresolved=bool(found))

    return transform(root, change), problems
