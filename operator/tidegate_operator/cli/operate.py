"""Commands for who runs models on this machine: what they do, what they say, wake and sleep.

Like `app`, this has flags and help only; the modules that do the work are imported when they run.
"""

import os
from typing import Annotated

import typer

from tidegate_billing import settings as config
from tidegate_operator.cli import options
from tidegate_operator.cli.failure import CommandError
from tidegate_operator.cli.options import Data, Json

ModelName = Annotated[str, typer.Argument(help="The model's name.", metavar="MODEL")]
Wait = Annotated[bool, typer.Option("--wait", help="Return when it is done, or has failed.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (status, logs, wake, sleep, chat):
        app.command()(command)


def status(
    data: Data = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Show what the local platform does: phases, load, tokens per second, cost so far."""
    from tidegate_operator.cli import board, interrupts, screen, watching

    if watch and as_json:
        raise typer.BadParameter("--watch and --json do not go together; poll `status --json`")
    with options.client(data, None) as client:
        if watch:
            interrupts.hear()
            screen.watch(client)
            return None
        seen = watching.Watching(client).look()
    if as_json:
        from tidegate_operator.cli import tables

        return tables.print_json(seen.document())
    return board.print_once(seen)


def logs(
    model: ModelName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    replica: Annotated[str | None, typer.Option(help="This one; else the newest.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Of the end.")] = 100,
    data: Data = None,
) -> None:
    """Print what a model's engine said, on this machine."""
    from tidegate_operator.cli import logs as command

    where = command.find(options.data(data), model)
    if follow:
        return command.follow(where, replica, lines)
    return command.show(where, replica, lines)


def wake(model: ModelName, wait: Wait = False, data: Data = None, as_json: Json = False) -> None:
    """Start a model now, as a request would; it stays for its idle time."""
    _ask(model, "wake", wait, data, as_json)


def sleep(model: ModelName, wait: Wait = False, data: Data = None, as_json: Json = False) -> None:
    """Drain a model to zero now; what runs finishes, and the next request wakes it."""
    _ask(model, "sleep", wait, data, as_json)


def chat(
    model: ModelName,
    system: Annotated[str, typer.Option(help="The system's message.")] = "",
    max_tokens: Annotated[int, typer.Option(min=0, help="Of an answer; 0: the engine's.")] = 0,
    base_url: Annotated[str | None, typer.Option(help="Gateway; else the local one.")] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Talk with a model; see what each answer takes and costs (key: TIDEGATE_API_KEY)."""
    from tidegate_operator.cli import chat as command
    from tidegate_operator.cli import interrupts
    from tidegate_operator.cli.talk import Talk

    interrupts.hear()

    values = config.read({"BASE_URL": base_url}, os.environ)
    if data and not base_url:  # a flag wins over the environment's other way to a platform
        values.pop("BASE_URL", None)
        values.pop("API_KEY", None)
    place, found = command.gateway(values, options.data(data))
    with Talk(place, model, system, max_tokens) as talk:
        talking = command.Chat(talk, command.looker(found, model), as_json=as_json)
        raise typer.Exit(talking.run(command.typed()))


def _ask(model: str, what: str, wait: bool, data: Data, as_json: bool) -> None:
    from tidegate_operator.cli import tables, watching

    with options.client(data, None) as client:
        row = watching.ask(client, model, what)
        if wait:
            row = watching.until(client, row, what)
    if as_json:
        tables.print_json(row)
    else:
        print(watching.words(row))
    if wait and what == "wake" and not row["ready"]:
        raise CommandError(f"{row['name']} did not start")
