"""The commands, their flags and their help. What a command does lies in the module it imports,
when it runs: `tidegate --help` and a long idle `up` load neither an HTTP client nor a database."""

import os
import re
import sys
from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from tidegate_billing import settings as config
from tidegate_operator.cli import (
    audit,
    budgets,
    cache,
    credit,
    keys,
    measure,
    operate,
    options,
    output,
    prices,
    webhooks,
    who,
)
from tidegate_operator.cli.failure import CommandError
from tidegate_operator.cli.options import AdminUrl, Data, Json, Tenant

app = typer.Typer(
    name="tidegate",
    help="AI models as a service: scale to zero, OpenAI-compatible, billed to the token.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(who.org, name="org")
app.add_typer(who.tenant_app, name="tenant")
app.add_typer(who.project_app, name="project")
app.add_typer(keys.app, name="key")
app.add_typer(who.account, name="service-account")
app.add_typer(audit.app, name="audit")
app.add_typer(prices.book, name="price-book")
app.add_typer(prices.contract, name="contract")
app.add_typer(prices.ledger, name="ledger")
app.add_typer(credit.app, name="credit")
app.add_typer(budgets.app, name="budget")
app.add_typer(webhooks.app, name="webhook")
app.add_typer(cache.app, name="cache")
app.add_typer(measure.app, name="bench")
operate.register(app)

IDLE_HELP = "Unused for so long, a model may be put to sleep for one that needs its memory."
ROUTERS_HELP = "How many; the first has the gateway's port, the others any free one each."
VLLM_PYTHON_HELP = "Runs vLLM for models whose profile is not cpu."
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def run(arguments: list[str]) -> int:
    """Run one command line. The exit status, where the command did not exit by itself."""
    output.settle()
    try:
        app(arguments, prog_name="tidegate")
    except (CommandError, config.SettingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _day(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        day = date.fromisoformat(value).isoformat()
    except ValueError:
        day = ""
    if day != value:  # Python also reads the basic format and week dates
        raise typer.BadParameter(f"{value!r} is not a day; allowed: YYYY-MM-DD")
    return value


def _month(value: str) -> str:
    if not re.fullmatch(r"[0-9]{4}-(0[1-9]|1[0-2])", value):
        raise typer.BadParameter(f"{value!r} is not a month; allowed: YYYY-MM")
    return value


def _grouping(value: str) -> str:
    names = [name.strip() for name in value.split(",")]
    if not set(names) <= {"model", "key", "day"} or len(set(names)) != len(names):
        raise typer.BadParameter(f"{value!r}: allowed are model, key and day, joined by commas")
    return ",".join(names)


@app.command()
def up(
    file: Annotated[
        list[Path],
        typer.Option(
            "--file",
            "-f",
            help="ModelDeployment YAML: a file, a directory (both followed), or - (stdin).",
        ),
    ],
    data: Data = None,
    cache: Annotated[Path | None, typer.Option(help="Engines and converted models.")] = None,
    host: Annotated[str | None, typer.Option(help="Address the gateway listens on.")] = None,
    port: Annotated[int | None, typer.Option(help="Gateway; 0 = any free port.")] = None,
    admin_port: Annotated[int | None, typer.Option(help="Management API.")] = None,
    ops_port: Annotated[int | None, typer.Option(help="Operations; the next two also.")] = None,
    routers: Annotated[int | None, typer.Option(help=ROUTERS_HELP)] = None,
    durability: Annotated[str | None, typer.Option(help="strict | relaxed")] = None,
    vllm_python: Annotated[Path | None, typer.Option(help=VLLM_PYTHON_HELP)] = None,
    memory: Annotated[str | None, typer.Option(help="What all engines may take: 6Gi.")] = None,
    minimum_idle_seconds: Annotated[int | None, typer.Option(help=IDLE_HELP)] = None,
    as_json: Json = False,
) -> None:
    """Run the platform on this machine, in the foreground, until Ctrl-C."""
    from tidegate_operator.cli import up as command

    flags = {
        "DATA": data,
        "CACHE": cache,
        "HOST": host,
        "PORT": port,
        "ADMIN_PORT": admin_port,
        "OPS_PORT": ops_port,
        "ROUTERS": routers,
        "DURABILITY": durability,
        "VLLM_PYTHON": vllm_python,
        "MEMORY": memory,
        "MINIMUM_IDLE_SECONDS": minimum_idle_seconds,
    }
    given = {name: None if value is None else str(value) for name, value in flags.items()}
    values = config.read(given, os.environ)
    raise typer.Exit(command.up(command.options(tuple(file), values, os.environ), as_json=as_json))


@app.command()
def doctor(
    data: Data = None,
    cache: Annotated[Path | None, typer.Option(help="Engines and converted models.")] = None,
    as_json: Json = False,
) -> None:
    """Check this machine, and say what to do where something is amiss."""
    from tidegate_operator.cli import up as command
    from tidegate_operator.cli.doctor import doctor as examine

    flags = {"DATA": str(data) if data else None, "CACHE": str(cache) if cache else None}
    values = config.read(flags, os.environ)
    raise typer.Exit(examine(command.options((), values, os.environ), as_json=as_json))


@app.command()
def demo(
    engine: Annotated[str, typer.Option(help="vllm (a real model) | sim")] = "vllm",
    wakes: Annotated[int, typer.Option(min=1, max=10_000, help="Wakes from zero.")] = 2,
    as_json: Json = False,
) -> None:
    """From zero to an exact bill and back to zero, twice, in a directory of its own."""
    from tidegate_operator.cli.demo import run as run_demo

    if engine not in {"sim", "vllm"}:
        raise typer.BadParameter(f"--engine {engine!r}: allowed are sim and vllm")
    values = config.read({}, os.environ)
    raise typer.Exit(run_demo(engine, wakes, as_json=as_json, cache=values.get("CACHE")))


@app.command()
def models(data: Data = None, as_json: Json = False) -> None:
    """Models of the local platform: phase, replicas, load."""
    from tidegate_operator.cli import tables

    with options.client(data, None) as client:
        answer = client.ops("/api/v1/models")
    if as_json:
        return tables.print_json(answer)
    return tables.print_rows(answer.get("data", []), tables.MODEL_COLUMNS, "no models")


@app.command()
def usage(
    tenant: Tenant,
    start: Annotated[str | None, typer.Option("--from", callback=_day, help="YYYY-MM-DD")] = None,
    end: Annotated[str | None, typer.Option("--to", callback=_day, help="YYYY-MM-DD")] = None,
    by: Annotated[str, typer.Option(callback=_grouping, help="model,key,day")] = "model",
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """Billed usage of a tenant, without lag behind the ledger (default: this month)."""
    from tidegate_operator.cli import tables

    query = {"tenant": tenant, "from": start, "to": end, "by": by}
    with options.client(data, admin_url) as client:
        answer = client.get("/api/v1/usage", **query)
    if as_json:
        return tables.print_json(answer)
    return tables.print_usage(answer, by.split(","))


@app.command()
def invoice(
    tenant: Tenant,
    month: Annotated[str, typer.Option(callback=_month, help="YYYY-MM")],
    data: Data = None,
    admin_url: AdminUrl = None,
    as_json: Json = False,
) -> None:
    """A tenant's invoice for a month."""
    from tidegate_operator.cli import tables

    with options.client(data, admin_url) as client:
        answer = client.get(f"/api/v1/invoices/{month}", tenant=tenant)
    if as_json:
        return tables.print_json(answer)
    return tables.print_invoice(answer)


@app.command()
def crd(
    apply: Annotated[bool, typer.Option("--apply", help="Apply them to the cluster.")] = False,
    reference: Annotated[bool, typer.Option(help="Print docs/reference.md instead.")] = False,
) -> None:
    """Print the CustomResourceDefinitions as YAML, or apply them."""
    from tidegate_runtime.contract import definitions
    from tidegate_runtime.contract import reference as described

    if reference:
        sys.stdout.write(described.page())
        return
    if apply:
        from tidegate_operator.kube import definition

        for made in definitions.crds():
            print(definition.apply_now(made), file=sys.stderr)
        return
    sys.stdout.write(definitions.all_text())


@app.command()
def check(
    url: Annotated[str, typer.Option(help="The gateway.")],
    tenant: Tenant,
    model: Annotated[str | None, typer.Option(help="Asked something, where given.")] = None,
    timeout: Annotated[int, typer.Option(min=1, help="Seconds for the whole check.")] = 300,
    admin_url: AdminUrl = None,
) -> None:
    """Make a real request with a key of its own and see it billed (`helm test` runs this)."""
    from tidegate_operator.cli import check as command

    with options.client(None, admin_url) as client:
        print(command.check(client, url, tenant, model, timeout))


def _part(context: typer.Context) -> None:
    from tidegate_operator.cli import become

    become(str(context.info_name), list(context.args))


@app.command(context_settings=PASS_ON, add_help_option=False)
def sim(context: typer.Context) -> None:
    """Run the simulated engine (its own flags: `tidegate sim --help`)."""
    _part(context)


@app.command(context_settings=PASS_ON, add_help_option=False)
def router(context: typer.Context) -> None:
    """Run a router (its own flags: `tidegate router --help`)."""
    _part(context)


@app.command(context_settings=PASS_ON, add_help_option=False)
def billing(context: typer.Context) -> None:
    """Run billing (its own flags: `tidegate billing --help`)."""
    _part(context)


@app.command(context_settings=PASS_ON, add_help_option=False)
def operator(context: typer.Context) -> None:
    """Run the operator of a cluster (settings only; see the chart)."""
    _part(context)
