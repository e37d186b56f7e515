"""Priority classes: what they resolve to, and what is wrong with them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from aoai_gateway.config.loader import Loaded, load
from aoai_gateway.config.models import Config
from aoai_gateway.config.priorities import BUILT_IN, BUILT_IN_DEFAULT, BreakLengths, Priority, PriorityClass

Lines = Callable[..., list[str]]
ROOT = Path(__file__).parents[2]

HEAD = """\
aoai:
  endpoints:
    - name: one
      url: https://one.example
      key: k
      virtual_deployments:
        - {name: big, standins: [{name: ptu, provisioned: true}, {name: paygo}]}
        - {name: reserved, standins: [{name: r, provisioned: true}]}
        - {name: plain, standins: [{name: p}]}
clients: [{name: Team, key: t}]
breaks: {default_seconds: 8, floor_seconds: 0.5, ceiling_seconds: 40}
"""
THREE = "priorities: [{name: critical}, {name: standard}, {name: batch}]\n"


def test_without_priorities_there_is_one_class_with_the_lengths_of_breaks(compiled: Callable[..., Loaded]):
    config = compiled(HEAD).config
    only = PriorityClass("default", 0, BreakLengths(8, 0.5, 40))
    assert config.priority_classes == (only,)
    assert config.priority_class(None) == config.priority_class("whatever") == only
    assert not only.may_wait


def test_a_class_says_what_is_different_and_the_order_is_the_rank(compiled: Callable[..., Loaded]):
    config = compiled(
        HEAD,
        """
        priorities:
          - name: critical
            breaks: {multiplier: 0.5, floor_seconds: 0.1}
            wait: {seconds: 10, length: 20}
          - name: batch
            breaks: {ceiling_seconds: 90}
            wait: {seconds: 3}
            leave_free: 0.25
            may_use: {spill: no}
            minimum_share: 0.05
        """,
    ).config
    assert config.priority_classes == (
        PriorityClass("critical", 0, BreakLengths(8, 0.1, 40, 0.5), 10, 20),
        PriorityClass("batch", 1, BreakLengths(8, 0.5, 90), 3, 500, 0.25, True, False, 0.05),
    )
    assert config.priority_class("critical").may_wait
    assert config.priority_class(None).name == "batch", "who says nothing comes last"
    with pytest.raises(KeyError):
        config.priority_class("standard")


def test_the_default_class_is_of_those_who_name_none(compiled: Callable[..., Loaded]):
    assert compiled(HEAD, THREE + "default_priority: standard").config.priority_class(None).rank == 1


@pytest.mark.parametrize(
    ("multiplier", "hint", "seconds"),
    [(0.5, 8, 4), (0.5, None, 5), (3, 30, 60), (0.5, 0.1, 0.2), (0.5, 80, 40)],
)
def test_the_multiplier_counts_before_the_bounds(multiplier: float, hint: float | None, seconds: float):
    assert BreakLengths(10, 0.2, 60, multiplier).length(hint) == seconds


def may_use(provisioned: bool, spill: bool) -> tuple[bool, bool, bool]:
    cls = PriorityClass("c", 0, BreakLengths(1, 1, 1), may_use_provisioned=provisioned, may_spill=spill)
    return (
        cls.may_use(provisioned=True, beside_provisioned=True),
        cls.may_use(provisioned=False, beside_provisioned=True),
        cls.may_use(provisioned=False, beside_provisioned=False),
    )


def test_spilling_is_what_happens_beside_provisioned_backends():
    assert may_use(True, True) == (True, True, True)
    assert may_use(True, False) == (True, False, True)
    assert may_use(False, True) == (False, True, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("priorities: [{name: a}, {name: a}]", '"a" is also the name of a class in policies/0.yaml:1'),
        (THREE + "default_priority: bacth", 'default_priority: is not a priority; did you mean "batch"?'),
        (
            THREE + "default_priority: low",
            "default_priority: is not a priority; there are critical, standard and batch",
        ),
        (
            THREE + "groups: [{name: G, priority: critcal}]",
            'groups[0].priority: is not a priority; did you mean "critical"?',
        ),
        (
            THREE + "clients: [{name: B, key: b, when_exceeded: {action: degrade, priority: batsh}}]",
            'clients[1].when_exceeded.priority: is not a priority; did you mean "batch"?',
        ),
        (
            "priorities: [{name: a, breaks: {floor_seconds: 50}}]",
            "breaks.floor_seconds: is above ceiling_seconds, which is that of breaks",
        ),
        (
            "priorities: [{name: a, breaks: {ceiling_seconds: 0.1}}]",
            "breaks.ceiling_seconds: is below floor_seconds, which is that of breaks",
        ),
        (
            "priorities: [{name: a, breaks: {floor_seconds: 2, ceiling_seconds: 1}}]",
            "breaks.floor_seconds: is above ceiling_seconds",
        ),
        (
            "priorities: [{name: a, minimum_share: 0.5}, {name: b, minimum_share: 0.6}]",
            "priorities[1].minimum_share: is too much: all together are above 1; lower one",
        ),
        (
            "priorities: [{name: a, may_use: {provisioned: no, spill: no}}]",
            "may_use: leaves nothing where there are provisioned standins; allow one of the two",
        ),
        ("priorities: [{name: a, leave_free: 1}]", 'leave_free: is "1", but it must be less than 1'),
        ("priorities: [{name: a, break: {}}]", 'break: unknown key; did you mean "breaks"?'),
        ("priorities: [{name: a, wait: {length: 5}}]", 'wait: "seconds" is missing'),
        ("priorities: [{name: a, breaks: {multiplier: 0}}]", "it must be greater than 0"),
    ],
)
def test_what_is_wrong_with_priorities(problems: Lines, text: str, said: str):
    (line,) = problems(HEAD, text)
    assert said in line


def test_shares_may_add_up_to_one(warnings: Lines):
    shares = ", ".join(f"{{name: c{n}, minimum_share: 0.1}}" for n in range(10))
    assert warnings(HEAD, f"priorities: [{shares}]") == []


def test_a_class_that_is_left_nothing_of_a_deployment(warnings: Lines):
    (said,) = warnings(HEAD, "priorities: [{name: a, may_use: {provisioned: no}}]")
    assert "may_use: leaves it nothing of reserved: all requests of the class for it will be refused" in said


def test_a_clients_class_is_good_and_a_groups_mistake_is_said_once(problems: Lines, warnings: Lines):
    clients = "clients: [{name: B, key: b, group: G}, {name: C, key: c, group: G}]\n"
    assert warnings(HEAD, THREE + clients + "groups: [{name: G, priority: batch}]") == []
    assert len(problems(HEAD, THREE + clients + "groups: [{name: G, priority: btch}]")) == 1


def test_the_shipped_classes():
    loaded = load(ROOT / "gateway.yaml", env={})
    critical, standard, batch = loaded.config.priority_classes
    assert (critical.name, standard.name, batch.name) == ("critical", "standard", "batch")
    assert loaded.config.priority_class(None) is standard
    assert critical.breaks.length(5) < standard.breaks.length(5) < batch.breaks.length(5)
    assert critical.leave_free == standard.leave_free == batch.leave_free == 0, "demand tells what to leave"
    assert all(cls.may_wait for cls in (critical, standard, batch))
    assert standard.minimum_share > 0 < batch.minimum_share


def test_the_built_in_classes_are_those_of_the_shipped_file():
    written = yaml.safe_load((ROOT / "policies" / "priorities.yaml").read_text("utf-8"))
    assert [Priority.model_validate(each) for each in BUILT_IN] == [
        Priority.model_validate(each) for each in written["priorities"]
    ]
    assert written["default_priority"] == BUILT_IN_DEFAULT


@pytest.mark.parametrize(
    "policy",
    [{"priority": "batch"}, {"when_exceeded": {"action": "degrade", "priority": "batch"}}],
)
def test_built_in_classes_apply_as_soon_as_a_client_names_one(policy):
    document = {
        "aoai": {"endpoints": [{"name": "a", "url": "https://a.example/", "key": "key-of-a"}]},
        "clients": [{"name": "Team 1", "key": "key-of-team-1", "max_requests_per_minute": 5, **policy}],
    }
    config = Config.model_validate(document)
    assert [cls.name for cls in config.priority_classes] == ["critical", "standard", "batch"]
    assert config.priority_class(None).name == "standard"
    del document["clients"][0]["priority" if "priority" in policy else "when_exceeded"]
    assert [cls.name for cls in Config.model_validate(document).priority_classes] == ["default"]
