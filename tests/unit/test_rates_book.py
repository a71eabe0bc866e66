"""Price documents: what they mean, and that each mistake is said with its place."""

import copy
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest
import yaml

from tidegate_billing.links import Pricing
from tidegate_billing.rates import book, contract
from tidegate_billing.rates.document import BookShape, ContractShape
from tidegate_billing.rates.flat import Flat
from tidegate_billing.rates.graduated import Graduated
from tidegate_billing.rates.meters import FREE, Shares
from tidegate_billing.rates.package import Package
from tidegate_billing.rates.problem import DocumentError, Problem
from tidegate_billing.rates.service import ServiceTier
from tidegate_billing.rates.terms import NONE_FREE, UNPRICED, Book, Contract, Entry, Override
from tidegate_billing.rates.tiers import Tier
from tidegate_billing.rates.volume import Volume

FULL = yaml.safe_load(
    """
name: list
currency: EUR
effectiveFrom: "2026-01-01T01:00:00.000001+01:00"
entries:
  - model: m
    prices:
      input: "0.10"
      cachedInput: {kind: flat, unitPrice: "0.02"}
      output:
        kind: graduated
        tiers: [{upTo: 1000000, unitPrice: "0.4"}, {unitPrice: "0.3", flatFee: "5"}]
      audioSecond:
        kind: volume
        tiers: [{upTo: 60, unitPrice: "0.001", flatFee: "0.5"}, {unitPrice: "0.0005"}]
      image: {kind: package, size: 100, price: "2"}
      request: "0.000000000001"
      replicaSecond: {kind: package, size: 60, price: "0.06"}
    allowance: {input: 5000, audioSecond: 30, replicaSecond: 2}
    serviceTiers:
      priority: {multiplier: "1.5"}
      flex: {prices: {output: "0.1"}}
    replica: {coldStart: absorb, idleTail: {split: 25}}
  - {model: m, adapter: a, prices: {input: "1"}}
"""
)
TERMS = yaml.safe_load(
    """
tenant: acme
currency: USD
effectiveFrom: "1970-01-01T00:00:01Z"
discount: "12.5"
minimumCommitment: "500.00"
overrides:
  - {model: m, prices: {input: "0.05"}, allowance: {input: 7}, serviceTiers: {flex: {multiplier: "0.5"}}}
  - {model: m, adapter: a, allowance: {image: 3}}
  - {model: n, discount: "0"}
  - {model: r, prices: {replicaSecond: "1"}, replica: {coldStart: charge, idleTail: absorb}, discount: "50"}
"""
)
FLAT = {"name": "b", "currency": "USD", "effectiveFrom": "2026-01-01T00:00:00Z"}


def prices(**named: Any) -> tuple[Any, ...]:
    places = "input cached_input output reasoning audio_second image request replica_second"
    return tuple(named.get(name) for name in places.split())


def test_a_full_book() -> None:
    listed = prices(
        input=Flat(10**11),  # 0.10 / 1e6 = 1e-7
        cached_input=Flat(2 * 10**10),
        output=Graduated((Tier(1_000_000, 4 * 10**11), Tier(None, 3 * 10**11, 5 * 10**18))),
        # a second is 1,000 ms: 0.001 / 1,000 = 1e-6, and 60 s are 60,000
        audio_second=Volume((Tier(60_000, 10**12, 5 * 10**17), Tier(None, 5 * 10**11))),
        image=Package(100, 2 * 10**18),
        request=Flat(10**6),
        replica_second=Package(6_000_000, 6 * 10**16),
    )
    micros = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000 + 1
    assert book.parse(FULL) == Book(
        name="list",
        currency="EUR",
        effective_from=micros,
        entries=(
            Entry(
                model="m",
                prices=listed,
                free=(5_000, 0, 0, 0, 30_000, 0, 0, 200_000),
                services={
                    "priority": ServiceTier(Fraction(3, 2)),
                    "flex": ServiceTier(own={2: Flat(10**11)}),
                },
                shares=Shares(0, 25),
            ),
            Entry(model="m", adapter="a", prices=prices(input=Flat(10**12))),
        ),
    )


def test_a_full_contract() -> None:
    first, *others = contract.parse(TERMS).overrides
    assert first == Override(
        model="m",
        entry=Entry(
            model="m",
            prices=prices(input=Flat(5 * 10**10)),
            free=(7, *NONE_FREE[1:]),
            services={"flex": ServiceTier(Fraction(1, 2))},
        ),
    )
    assert contract.parse(TERMS) == Contract(
        tenant="acme",
        currency="USD",
        effective_from=1_000_000,
        discount=Fraction(7, 8),
        minimum=500 * 10**18,
        overrides=(
            first,
            Override(model="m", adapter="a", free=(0, 0, 0, 0, 0, 3, 0, 0)),
            Override(model="n", discount=Fraction(1)),
            Override(
                model="r",
                entry=Entry(
                    model="r", prices=prices(replica_second=Flat(10**13)), shares=Shares(100, 0)
                ),
                discount=Fraction(1, 2),
            ),
        ),
    )
    assert len(others) == 3


def test_what_may_be_left_out() -> None:
    least = contract.parse(
        {"tenant": "t", "currency": "USD", "effectiveFrom": FLAT["effectiveFrom"]}
    )
    assert least == Contract(
        tenant="t",
        currency="USD",
        effective_from=least.effective_from,
        discount=Fraction(1),
        minimum=0,
        overrides=(),
    )
    assert Contract(tenant="t", currency="USD", effective_from=least.effective_from) == least
    assert Contract(tenant="t", currency="USD").effective_from == 0
    (entry,) = book.parse({**FLAT, "entries": [{"model": "m", "prices": {"input": "0"}}]}).entries
    assert (entry.adapter, entry.free, entry.services, entry.shares) == ("", NONE_FREE, {}, FREE)
    assert entry.prices == prices(input=Flat(0))
    assert entry.prices != UNPRICED


def test_a_phase_is_charged_absorbed_or_split() -> None:
    policies = [("charge", 100), ("absorb", 0), ({"split": 1}, 1), ({"split": 99}, 99)]
    for policy, share in policies:
        changed = copy.deepcopy(FULL)
        changed["entries"][0]["replica"] = {"coldStart": policy, "idleTail": "absorb"}
        assert book.parse(changed).entries[0].shares == Shares(share, 0)


def test_a_resources_own_pricing_is_the_same_as_a_book() -> None:
    pricing = Pricing(
        currency="EUR",
        input_per_million="0.10",
        output_per_million="0.40",
        cached_input_per_million="0.02",
    )
    written = {
        **FLAT,
        "currency": "EUR",
        "entries": [
            {"model": "m", "prices": {"input": "0.10", "cachedInput": "0.02", "output": "0.40"}}
        ],
    }
    own = book.from_pricing("m", pricing)
    assert own.entries == book.parse(written).entries
    assert (own.name, own.currency, own.effective_from) == ("pricing", "EUR", 0)
    (least,) = book.from_pricing("m", Pricing()).entries
    assert least.prices == prices(input=Flat(0), output=Flat(0))


def test_the_mistakes_of_a_resources_pricing_have_its_names() -> None:
    bad = Pricing(
        currency="usd",
        input_per_million="-1",
        output_per_million="",
        cached_input_per_million="1e3",
    )
    with pytest.raises(DocumentError) as caught:
        book.from_pricing("m", bad)
    assert [problem.path for problem in caught.value.problems] == [
        "pricing.inputPerMillion",
        "pricing.outputPerMillion",
        "pricing.cachedInputPerMillion",
        "pricing.currency",
    ]
    assert all("allowed: " in problem.said for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.1Z", 100_000),
        ("1970-01-01T00:00:00.000001Z", 1),
        ("1970-01-01t00:00:01z", 1_000_000),
        ("1970-01-01 00:00:01+00:00", 1_000_000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T19:00:00.5-05:00", 500_000),
        ("2026-01-01T00:00:00Z", 1_767_225_600_000_000),
        ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
    ],
)
def test_a_time_is_read_to_the_microsecond(text: str, micros: int) -> None:
    document = {
        **FLAT,
        "effectiveFrom": text,
        "entries": [{"model": "m", "prices": {"input": "1"}}],
    }
    assert book.parse(document).effective_from == micros


def changed(document: Any, path: str, value: object) -> Any:
    """A copy with one field set; `DROP` takes it out."""
    made = copy.deepcopy(document)
    *steps, last = path.split("/")
    at = made
    for step in steps:
        at = at[int(step) if step.isdigit() else step]
    if value is DROP:
        del at[last]
    else:
        at[int(last) if last.isdigit() else last] = value
    return made


DROP = object()
ENTRY = "entries/0/prices"
METERS = "input, cachedInput, output, reasoning, audioSecond, image, request, replicaSecond"
AMOUNT = "a decimal string from 0"

BAD_BOOKS = [
    # path to change, value, where the problem is said to be, what it says
    ("name", DROP, "name", "is missing; allowed: name, currency, effectiveFrom, entries"),
    ("name", "", "name", "empty or out of range; allowed: a string"),
    ("name", 1, "name", "is int; allowed: a string"),
    ("extra", 1, "extra", "is unknown; allowed: name, currency, effectiveFrom, entries"),
    ("currency", "eur", "currency", "'eur' is not a currency; allowed: an ISO 4217 code"),
    ("effectiveFrom", "", "effectiveFrom", "is no time; allowed: RFC 3339"),
    ("effectiveFrom", "2026-01-01", "effectiveFrom", "is no time; allowed: RFC 3339"),
    ("effectiveFrom", "2026-01-01T00:00:00", "effectiveFrom", "is no time; allowed: RFC 3339"),
    ("effectiveFrom", "2026-02-30T00:00:00Z", "effectiveFrom", "is no time; allowed: RFC 3339"),
    ("effectiveFrom", "2026-01-01T00:00:00.1234567Z", "effectiveFrom", "to the microsecond"),
    ("effectiveFrom", datetime(2026, 1, 1, tzinfo=UTC), "effectiveFrom", "a string (in quotes)"),
    ("entries", [], "entries", "empty or out of range; allowed: a list that is not empty"),
    ("entries", {}, "entries", "is object; allowed: a list"),
    ("entries/0", [], "entries[0]", "is array; allowed: an object"),
    ("entries/1/adapter", "", "entries[1].adapter", "a string (in quotes) that is not empty"),
    ("entries/0/model", DROP, "entries[0].model", "is missing; allowed: model, prices, adapter"),
    ("entries/0/modle", "m", "entries[0].modle", "is unknown; allowed: model, prices, adapter"),
    ("entries/0/adapter", "a", "entries[1]", "'m' is priced twice; allowed: one entry"),
    (ENTRY, {}, "entries[0].prices", "an object that is not empty"),
    (ENTRY, {1: "1"}, "entries[0].prices", "is int; allowed: a string"),
    (f"{ENTRY}/inputs", "1", "entries[0].prices.inputs", f"no meter; allowed: {METERS}"),
    (f"{ENTRY}/input", 0.1, "entries[0].prices.input", "is float; allowed: a price as a string"),
    (f"{ENTRY}/input", "0.0000000000001", "entries[0].prices.input", f"allowed: {AMOUNT}"),
    (f"{ENTRY}/input", "-1", "entries[0].prices.input", f"allowed: {AMOUNT}"),
    (f"{ENTRY}/input", {}, "entries[0].prices.input.kind", "None is no kind of price; allowed: flat"),
    (f"{ENTRY}/image/kind", "linear", "entries[0].prices.image.kind", "graduated, volume, package"),
    (f"{ENTRY}/image/kind", ["flat"], "entries[0].prices.image.kind", "is no kind of price"),
    ("entries/1/prices", {"cachedInput": "1"}, "entries[1].prices.cachedInput", "needs a price of input beside"),
    ("entries/1/prices", {"reasoning": "1"}, "entries[1].prices.reasoning", "needs a price of output beside"),
    (f"{ENTRY}/cachedInput/unitPrice", 1, "entries[0].prices.cachedInput.unitPrice", "is int"),
    (f"{ENTRY}/cachedInput/unitPrice", "x", "entries[0].prices.cachedInput.unitPrice", AMOUNT),
    (f"{ENTRY}/cachedInput/price", "1", "entries[0].prices.cachedInput.price", "allowed: unitPrice"),
    (f"{ENTRY}/output/tiers", [], "entries[0].prices.output.tiers", "a list that is not empty"),
    (f"{ENTRY}/output/tiers/0/upTo", 0, "entries[0].prices.output.tiers[0].upTo", "number >= 1"),
    (f"{ENTRY}/output/tiers/0/upTo", 1.5, "entries[0].prices.output.tiers[0].upTo", "is float"),
    (f"{ENTRY}/output/tiers/0/upTo", DROP, "entries[0].prices.output.tiers[0]", "does not rise"),
    (f"{ENTRY}/output/tiers/1/upTo", 5, "entries[0].prices.output.tiers[1]", "the last tier ends"),
    (f"{ENTRY}/output/tiers/0/unitPrice", "x", "entries[0].prices.output.tiers[0].unitPrice", AMOUNT),
    (f"{ENTRY}/output/tiers/1/flatFee", "x", "entries[0].prices.output.tiers[1].flatFee", AMOUNT),
    (f"{ENTRY}/audioSecond/tiers/1/upTo", 9, "entries[0].prices.audioSecond.tiers[1]", "last tier"),
    (f"{ENTRY}/image/size", 0, "entries[0].prices.image.size", "allowed: a whole number >= 1"),
    (f"{ENTRY}/image/price", "x", "entries[0].prices.image.price", f"allowed: {AMOUNT}"),
    (f"{ENTRY}/image/price", DROP, "entries[0].prices.image.price", "is missing; allowed: size, price"),
    ("entries/0/allowance", {"tokens": 1}, "entries[0].allowance.tokens", f"allowed: {METERS}"),
    ("entries/0/allowance", {"input": "1"}, "entries[0].allowance.input", "is str; allowed: a whole"),
    ("entries/0/allowance", {"input": 0}, "entries[0].allowance.input", "a whole number >= 1"),
    ("entries/0/allowance", {"reasoning": 1}, "entries[0].allowance.reasoning", "is free but has no"),
    ("entries/0/serviceTiers", {"default": {"multiplier": "1"}}, "entries[0].serviceTiers.default", "the entry itself"),
    ("entries/0/serviceTiers", {"Flex": {"multiplier": "1"}}, "entries[0].serviceTiers.Flex", "lower case"),
    ("entries/0/serviceTiers", {"flex": {}}, "entries[0].serviceTiers.flex", "one of multiplier, prices"),
    ("entries/0/serviceTiers/flex/multiplier", "1", "entries[0].serviceTiers.flex", "one of multiplier"),
    ("entries/0/serviceTiers/flex/prices", {}, "entries[0].serviceTiers.flex.prices", "not empty"),
    ("entries/0/serviceTiers/flex/prices", {"output": "x"}, "entries[0].serviceTiers.flex.prices.output", AMOUNT),
    ("entries/0/serviceTiers/flex/prices", {"reasoning": "1"}, "entries[0].serviceTiers.flex.prices.reasoning", "no price in the default tier"),
    ("entries/0/serviceTiers/flex/factor", "1", "entries[0].serviceTiers.flex.factor", "allowed: multiplier, prices"),
    ("entries/0/serviceTiers/priority/multiplier", "0", "entries[0].serviceTiers.priority.multiplier", "a decimal string above 0"),
    ("entries/0/serviceTiers/priority/multiplier", 2, "entries[0].serviceTiers.priority.multiplier", "is int"),
    # 0.000000000001 is one of the finest prices; a million-fold finer factor is one too fine
    ("entries/0/serviceTiers/priority/multiplier", "0.0000001", "entries[0].serviceTiers.priority", "request: "),
    ("entries/0/replica", DROP, "entries[0].replica", "missing beside a price of replicaSecond"),
    ("entries/1/replica", {"coldStart": "charge", "idleTail": "charge"}, "entries[1].replica", "no price to share"),
    ("entries/0/replica/idleTail", DROP, "entries[0].replica.idleTail", "is missing; allowed: coldStart, idleTail"),
    ("entries/0/replica/coldStart", "half", "entries[0].replica.coldStart", "charge, absorb or {split"),
    ("entries/0/replica/idleTail", "half", "entries[0].replica.idleTail", "charge, absorb or {split"),
    ("entries/0/replica/coldStart", {"split": 0}, "entries[0].replica.coldStart.split", "number >= 1"),
    ("entries/0/replica/coldStart", {"split": 100}, "entries[0].replica.coldStart.split", "number <= 99"),
    ("entries/0/replica/coldStart", {"split": 12.5}, "entries[0].replica.coldStart.split", "is float"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "value", "path", "said"),
    BAD_BOOKS,
    ids=[f"{n} {row[2]}" for n, row in enumerate(BAD_BOOKS)],
)
def test_a_mistake_in_a_book_is_named(change: str, value: object, path: str, said: str) -> None:
    with pytest.raises(DocumentError) as caught:
        book.parse(changed(FULL, change, value))
    (problem,) = caught.value.problems
    assert problem.path == path
    assert said in problem.said
    assert "allowed: " in problem.said
    assert str(caught.value) == f"{problem.path} {problem.said}"


BAD_CONTRACTS = [
    ("tenant", "", "tenant", "a string (in quotes) that is not empty"),
    ("tenants", "x", "tenants", "allowed: tenant, currency, effectiveFrom, discount"),
    ("currency", "US", "currency", "an ISO 4217 code"),
    ("effectiveFrom", "now", "effectiveFrom", "allowed: RFC 3339"),
    ("discount", 15, "discount", "is int; allowed: a string"),
    ("discount", "101", "discount", "allowed: a decimal string from 0 to 100"),
    ("minimumCommitment", "500.001", "minimumCommitment", "allowed: at most 2 decimals"),
    ("minimumCommitment", "x", "minimumCommitment", f"allowed: {AMOUNT}"),
    ("overrides", {}, "overrides", "allowed: a list"),
    ("overrides/0", "m", "overrides[0]", "is str; allowed: an object"),
    ("overrides/1/adapter", DROP, "overrides[1]", "'m' has two; allowed: one override"),
    ("overrides/1/allowance", {"x": 1}, "overrides[1].allowance.x", f"allowed: {METERS}"),
    ("overrides/1/allowance", DROP, "overrides[1]", "changes nothing; allowed: prices, allowance"),
    ("overrides/1/serviceTiers", {"flex": {"multiplier": "1"}}, "overrides[1].serviceTiers", "beside prices"),
    ("overrides/1/replica", {"coldStart": "charge"}, "overrides[1].replica", "beside prices"),
    ("overrides/2/discount", "x", "overrides[2].discount", "from 0 to 100"),
    ("overrides/0/prices/input", "x", "overrides[0].prices.input", f"allowed: {AMOUNT}"),
    ("overrides/0/allowance/output", 1, "overrides[0].allowance.output", "is free but has no price"),
    ("overrides/3/replica", DROP, "overrides[3].replica", "is missing beside"),
    ("overrides/0/rate", "1", "overrides[0].rate", "allowed: model, adapter, prices, allowance"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "value", "path", "said"),
    BAD_CONTRACTS,
    ids=[f"{n} {row[2]}" for n, row in enumerate(BAD_CONTRACTS)],
)
def test_a_mistake_in_a_contract_is_named(change: str, value: object, path: str, said: str) -> None:
    with pytest.raises(DocumentError) as caught:
        contract.parse(changed(TERMS, change, value))
    (problem,) = caught.value.problems
    assert problem.path == path
    assert said in problem.said
    assert "allowed: " in problem.said


def test_all_mistakes_are_told_at_once() -> None:
    bad = {
        "name": "b",
        "currency": "usd",
        "effectiveFrom": "soon",
        "entries": [
            {"model": "m", "prices": {"input": "x", "output": 1.0}, "allowance": {"z": 0}},
            {"model": "n"},
            {"model": "o", "prices": {"image": {"kind": "package", "size": 0, "price": "1"}}},
        ],
    }
    with pytest.raises(DocumentError) as caught:
        book.parse(bad)
    assert [problem.path for problem in caught.value.problems] == [
        "entries[0].prices.input",
        "entries[0].prices.output",
        "entries[0].allowance.z",
        "entries[0].allowance.z",
        "entries[1].prices",
        "entries[2].prices.image.size",
        "currency",
        "effectiveFrom",
    ]
    assert str(caught.value).count("; ") >= 7


def test_only_a_document_that_reads_is_asked_whether_it_is_exact() -> None:
    inexact = changed(FULL, "entries/0/serviceTiers/priority/multiplier", "0.0000001")
    with pytest.raises(DocumentError) as caught:
        book.parse({**inexact, "currency": "eur"})
    assert [problem.path for problem in caught.value.problems] == ["currency"]


@pytest.mark.parametrize("document", [None, [], "name: b", 1])
@pytest.mark.parametrize("parse", [book.parse, contract.parse])
def test_what_is_no_object_is_no_document(parse: Any, document: object) -> None:
    with pytest.raises(DocumentError, match="allowed: an object"):
        parse(document)


def test_a_problem_reads_as_a_sentence() -> None:
    problems = (Problem("a.b", "is 1; allowed: 2"), Problem("c", "is 3; allowed: 4"))
    error = DocumentError(problems)
    assert str(error) == "a.b is 1; allowed: 2; c is 3; allowed: 4"
    assert error.problems == problems


def test_documents_are_read_as_they_come_from_json_too() -> None:
    assert BookShape.__struct_encode_fields__[2] == "effectiveFrom"
    assert ContractShape.__struct_encode_fields__[4] == "minimumCommitment"
