"""`tidegate bench`: its flags and help."""

import os
from pathlib import Path
from typing import Annotated

import typer

from tidegate_billing import settings as config
from tidegate_operator.cli import options
from tidegate_operator.cli.failure import CommandError
from tidegate_operator.cli.options import Data, Json

app = typer.Typer(help="Measure a server, or the router against its peers.")

PROMPT_HELP = "Lengths in words, each with a weight: 100 or 50:9,2000:1."
RATE_HELP = "Open loop: so many requests per second, whatever happens."
REQUESTS_HELP = "How many at most: 100, or as many as fit in --duration."
MOST = 1_000_000
CALLERS_HELP = "Closed loop: so many callers, each asks again when it was answered."


@app.callback(invoke_without_command=True)
def bench(context: typer.Context) -> None:
    """Measure a server, or the router against its peers."""
    if context.invoked_subcommand is None:
        here = "this has `tidegate bench load URL`"
        raise CommandError(
            f"the router's bench kit is in the source tree, not in the package: run `make bench`; {here}"
        )


@app.command()
def load(
    url: Annotated[str, typer.Argument(help="Any OpenAI-compatible server.", metavar="URL")],
    model: Annotated[str, typer.Option(help="Asked; needed where there are several.")] = "",
    concurrency: Annotated[int, typer.Option(min=1, max=2048, help=CALLERS_HELP)] = 8,
    rate: Annotated[float | None, typer.Option(min=0.001, max=10_000, help=RATE_HELP)] = None,
    even: Annotated[bool, typer.Option("--even", help="Evenly, not at random (Poisson).")] = False,
    requests: Annotated[int | None, typer.Option(min=1, max=MOST, help=REQUESTS_HELP)] = None,
    duration: Annotated[str | None, typer.Option(help="Send for so long at most: 90s, 5m.")] = None,
    streams: Annotated[float, typer.Option(min=0, max=1, help="Share that streams.")] = 1.0,
    prompt_words: Annotated[str, typer.Option(help=PROMPT_HELP)] = "100",
    max_tokens: Annotated[int, typer.Option(min=1, help="Of each answer.")] = 64,
    warmup: Annotated[int, typer.Option(min=0, max=1000, help="Not counted.")] = 1,
    seed: Annotated[int, typer.Option(help="The same seed makes the same load.")] = 1,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one answer.")] = 600.0,
    html: Annotated[Path | None, typer.Option(help="Write a report with charts.")] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Load any OpenAI-compatible URL and say how it answers (key: TIDEGATE_API_KEY)."""
    from tidegate_operator.cli import address
    from tidegate_operator.cli.load import plan

    try:
        address.web("URL", url)
    except CommandError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        lengths = plan.prompts(prompt_words)
    except ValueError as error:
        raise typer.BadParameter(f"--prompt-words {error}") from None
    wanted = plan.Load(
        model=model,
        concurrency=concurrency,
        rate=rate,
        arrivals="even" if even else "poisson",
        requests=requests or (100 if duration is None else MOST),
        seconds=None if duration is None else options.seconds(duration),
        streams=streams,
        prompts=lengths,
        max_tokens=max_tokens,
        seed=seed,
        warmup=warmup,
        timeout=timeout,
    )
    from tidegate_operator.cli.load import command
    from tidegate_operator.cli.load.drive import Target

    target = Target(url, _key(url, data))
    raise typer.Exit(command.run(wanted, target, html=html, as_json=as_json))


def _key(url: str, data: Path | None) -> str:
    """The key to use: the setting's; for the local platform's own URL the default tenant's."""
    from tidegate_operator.cli import address, platform

    key = config.read({}, os.environ).get("API_KEY", "")
    if key:
        return address.secret("TIDEGATE_API_KEY", key)
    where = options.data(data)
    try:
        base = str(platform.read_run(where).get("base_url", ""))
        own = base and url.rstrip("/").removesuffix("/v1") == base
        return platform.read_secret(where / "api-key") if own else ""
    except CommandError:
        return ""
