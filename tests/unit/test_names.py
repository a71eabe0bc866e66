"""Name resolution: the rule's table, and what must hold for any world."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tidegate_runtime.contract.links import ModelView
from tidegate_runtime.contract.names import NameTable


def view(deployment: str, name: str = "qwen", created: float = 0.0, **more: Any) -> ModelView:
    owner = deployment.split("/", maxsplit=1)[0]
    return ModelView(deployment=deployment, owner=owner, name=name, created=created, **more)


def meaning(table: NameTable, tenant: str, name: str = "qwen") -> str | None:
    found = table.lookup(tenant, name)
    return found.deployment if found else None


def test_private_means_the_owner_only() -> None:
    table = NameTable.build([view("a/m")])
    assert meaning(table, "a") == "a/m"
    assert meaning(table, "b") is None
    assert table.visible("b") == []


def test_listed_tenants_are_added_to_the_owner() -> None:
    table = NameTable.build([view("a/m", tenants=["b"])])
    assert [meaning(table, tenant) for tenant in "abc"] == ["a/m", "a/m", None]
    assert [one.deployment for one in table.visible("b")] == ["a/m"]


def test_own_comes_before_an_older_public_one_and_that_is_no_conflict() -> None:
    table = NameTable.build([view("p/m", created=1, visibility="Public"), view("a/m", created=2)])
    assert [meaning(table, tenant) for tenant in "abp"] == ["a/m", "p/m", "p/m"]
    assert table.conflicts == {}
    assert [one.deployment for one in table.visible("a")] == ["a/m"]


def test_the_oldest_wins_then_the_smaller_key_and_losers_are_told() -> None:
    older, younger = view("a/z", created=1), view("a/y", created=2)
    table = NameTable.build([younger, older])
    assert meaning(table, "a") == "a/z"
    assert list(table.conflicts) == ["a/y"]
    assert "'qwen' belongs to a/z" in table.conflicts["a/y"]
    twins = NameTable.build([view("a/y", created=1), view("a/x", created=1)])
    assert meaning(twins, "a") == "a/x"


def test_the_loser_is_promoted_when_the_winner_goes_or_is_invalid() -> None:
    winner, loser = view("a/z", created=1), view("a/y", created=2)
    assert meaning(NameTable.build([loser]), "a") == "a/y"
    invalid = ModelView(deployment="a/z", owner="a", name="qwen", created=1, valid=False)
    table = NameTable.build([invalid, loser])
    assert meaning(table, "a") == "a/y"
    assert table.conflicts == {}
    assert meaning(NameTable.build([winner, loser]), "a") == "a/z"


def test_aliases_are_names() -> None:
    table = NameTable.build(
        [view("a/x", "one", 1, aliases=["qwen"]), view("a/y", "qwen", 2, aliases=["two"])]
    )
    assert meaning(table, "a") == "a/x"
    assert meaning(table, "a", "two") == "a/y"
    assert list(table.conflicts) == ["a/y"]
    assert [one.name for one in table.visible("a")] == ["one"]


def test_listed_and_public_compete_by_age() -> None:
    shared = view("b/m", created=1, tenants=["a"])
    public = view("p/m", created=2, visibility="Public")
    table = NameTable.build([shared, public])
    assert [meaning(table, tenant) for tenant in "abcp"] == ["b/m", "b/m", "p/m", "p/m"]
    assert list(table.conflicts) == ["p/m"]
    late = NameTable.build([view("b/m", created=3, tenants=["a"]), public])
    assert [meaning(late, tenant) for tenant in "abc"] == ["p/m", "b/m", "p/m"]
    assert list(late.conflicts) == ["b/m"]


TENANTS = st.sampled_from("abcd")
VIEWS = st.lists(
    st.builds(
        lambda owner, number, name, aliases, created, public, tenants: view(
            f"{owner}/{number}",
            name,
            float(created),
            aliases=aliases,
            visibility="Public" if public else "Private",
            tenants=tenants,
        ),
        TENANTS,
        st.integers(0, 9),
        st.sampled_from(["x", "y", "z"]),
        st.lists(st.sampled_from(["x", "y", "z", "w"]), max_size=2),
        st.integers(0, 3),
        st.booleans(),
        st.lists(TENANTS, max_size=2),
    ),
    max_size=8,
    unique_by=lambda one: one.deployment,
)


def expected(views: list[ModelView], tenant: str, name: str) -> ModelView | None:
    """The rule, word for word, without any table."""

    def rank(one: ModelView) -> tuple[bool, float, str]:
        return one.owner != tenant, one.created, one.deployment

    fitting = [
        one
        for one in views
        if name in {one.name, *one.aliases}
        and (one.owner == tenant or one.visibility == "Public" or tenant in one.tenants)
    ]
    return min(fitting, key=rank, default=None)


@given(VIEWS, st.randoms())
def test_the_table_says_what_the_rule_says(views: list[ModelView], random: Any) -> None:
    table = NameTable.build(views)
    for tenant in "abcde":
        for name in "wxyz":
            assert table.lookup(tenant, name) == expected(views, tenant, name)
        names = [one.name for one in table.visible(tenant)]
        assert names == sorted(set(names))
        assert all(table.lookup(tenant, one.name) is one for one in table.visible(tenant))
    shuffled = views.copy()
    random.shuffle(shuffled)
    again = NameTable.build(shuffled)
    assert again.conflicts.keys() == table.conflicts.keys()
    assert again.by_tenant == table.by_tenant


@given(VIEWS)
def test_conflicts_are_exactly_those_who_lose_a_name_to_their_like(views: list[ModelView]) -> None:
    losers = set()
    for tenant in "abcde":
        for one in views:
            if not (one.owner == tenant or one.visibility == "Public" or tenant in one.tenants):
                continue
            for name in {one.name, *one.aliases}:
                winner = expected(views, tenant, name)
                assert winner is not None
                alike = (winner.owner == tenant) == (one.owner == tenant)
                if winner.deployment != one.deployment and alike:
                    losers.add(one.deployment)
    assert set(NameTable.build(views).conflicts) == losers
