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
    assert list(table.conflicts) == ["a/y"]
    assert meaning(table, "a", "two") is None  # in conflict: it holds nothing at all
    assert [one.name for one in table.visible("a")] == ["one"]


def test_who_only_lacks_an_alias_serves_and_is_told() -> None:
    table = NameTable.build(
        [view("a/x", "one", 1, aliases=["both"]), view("a/y", "two", 2, aliases=["both", "more"])]
    )
    assert table.conflicts == {}
    assert [meaning(table, "a", name) for name in ("both", "two", "more")] == ["a/x", "a/y", "a/y"]
    assert table.missed == {"a/y": "the alias 'both' belongs to a/x, which is older"}


def test_nobody_takes_a_public_name_by_listing_others() -> None:
    public = view("p/m", created=2, visibility="Public")
    for created in (1, 3):
        table = NameTable.build([view("b/m", created=created, tenants=["a"]), public])
        assert [meaning(table, tenant) for tenant in "abcp"] == ["p/m", "b/m", "p/m", "p/m"]
        assert table.conflicts == {}
    by_alias = view("b/old", "other", created=1, aliases=["qwen"], tenants=["a"])
    table = NameTable.build([by_alias, public])
    assert [meaning(table, tenant) for tenant in "abc"] == ["p/m", "b/old", "p/m"]
    assert (table.conflicts, meaning(table, "a", "other")) == ({}, "b/old")


def test_of_two_that_list_a_tenant_it_sees_the_older() -> None:
    table = NameTable.build(
        [view("b/m", created=2, tenants=["a"]), view("c/m", created=1, tenants=["a"])]
    )
    assert [meaning(table, tenant) for tenant in "abc"] == ["c/m", "b/m", "c/m"]
    assert table.conflicts == {}


def test_of_two_public_ones_the_younger_serves_nobody() -> None:
    older, younger = (
        view("p/m", created=1, visibility="Public"),
        view("q/m", created=2, visibility="Public", aliases=["mine"]),
    )
    table = NameTable.build([older, younger])
    assert [meaning(table, tenant) for tenant in "pqa"] == ["p/m"] * 3
    assert meaning(table, "q", "mine") is None
    assert list(table.conflicts) == ["q/m"]
    assert meaning(NameTable.build([younger]), "a", "mine") == "q/m"


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


def visible_to(one: ModelView, tenant: str) -> bool:
    return one.owner == tenant or one.visibility == "Public" or tenant in one.tenants


@given(VIEWS, st.randoms())
def test_what_a_table_says_follows_the_rule(views: list[ModelView], random: Any) -> None:
    table = NameTable.build(views)
    serving = [one for one in views if one.deployment not in table.conflicts]

    def rank(one: ModelView, tenant: str) -> tuple[bool, bool, float, str]:
        return one.owner != tenant, one.visibility != "Public", one.created, one.deployment

    for tenant in "abcde":
        for name in "wxyz":
            fitting = [
                one
                for one in serving
                if name in {one.name, *one.aliases}
                and visible_to(one, tenant)
                # An alias that its owner cannot use is nobody's way to it.
                and table.lookup(one.owner, name) is one
            ]
            first = min(fitting, key=lambda one: rank(one, tenant), default=None)
            assert table.lookup(tenant, name) is first
        names = [one.name for one in table.visible(tenant)]
        assert names == sorted(set(names))
        assert all(table.lookup(tenant, one.name) is one for one in table.visible(tenant))
    shuffled = views.copy()
    random.shuffle(shuffled)
    again = NameTable.build(shuffled)
    assert again.conflicts == table.conflicts
    assert again.by_tenant == table.by_tenant


@given(VIEWS)
def test_what_serves_can_be_called_by_its_owner_and_what_does_not_by_nobody(
    views: list[ModelView],
) -> None:
    """So an operator keeps alive exactly what routers resolve."""
    table = NameTable.build(views)
    for one in views:
        held = {name for tenant in "abcde" for name in "wxyz" if table.lookup(tenant, name) is one}
        if one.deployment in table.conflicts:
            assert not held
        else:
            assert table.lookup(one.owner, one.name) is one


@given(VIEWS)
def test_only_an_older_one_of_the_same_owner_or_public_alike_takes_a_name(
    views: list[ModelView],
) -> None:
    table = NameTable.build(views)
    by_deployment = {one.deployment: one for one in views}
    for lost, said in {**table.conflicts, **table.missed}.items():
        loser = by_deployment[lost]
        winner = by_deployment[said.partition("belongs to ")[2].partition(",")[0]]
        assert (winner.created, winner.deployment) < (loser.created, loser.deployment)
        public = winner.visibility == loser.visibility == "Public"
        assert winner.owner == loser.owner or public
        assert winner.deployment not in table.conflicts
