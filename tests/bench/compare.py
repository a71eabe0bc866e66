"""`make bench`: the same fake pods, the same load, each router in turn, rounds interleaved.

    make bench                                          everything that is installed
    make bench ARGS="--rounds 9 --only direct,nginx,vllm-router,tidegate-strict"
    make bench ARGS="--sut mine='my-router --port {port}'"

Layout `one`: client, router and pods share a core, so that a router's CPU is all that differs.
Layout `two`: the router has a core of its own. Ends only processes that it started; all traffic
stays on 127.0.0.1. It needs a C compiler.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import load
import peers
import table


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("build/bench"), help="scratch folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slices", type=int, default=2, help="of each load, per round")
    parser.add_argument("--loads", default="c1,c32,big32,sse20ms,sse0")
    parser.add_argument("--layouts", default="one", help="one,two")
    parser.add_argument("--only", default="", help="names, joined by commas")
    parser.add_argument("--skip", default="")
    parser.add_argument("--sut", action="append", default=[], help="NAME=COMMAND with {port}")
    parser.add_argument("--tidegate", default=str(Path(sys.executable).with_name("tidegate")))
    parser.add_argument("--out", type=Path, help="NDJSON; default: ROOT/results.jsonl, replaced")
    return parser.parse_args()


def chosen(options: argparse.Namespace, place: peers.Place) -> list[peers.Sut]:
    """What is to be measured and is there; the rest is named on stderr."""
    suts = peers.known(place, options.tidegate)
    for given in options.sut:
        name, _, command = given.partition("=")
        suts.append(peers.Sut(name, tuple(shlex.split(command.format(port=place.port)))))
    if options.only:
        suts = [sut for sut in suts if sut.name in options.only.split(",")]
    suts = [sut for sut in suts if sut.name not in options.skip.split(",")]
    for sut in suts:
        if sut.missing:
            hint = f" ({sut.install})" if sut.install else ""
            print(f"skipped: {sut.name} is not installed{hint}", file=sys.stderr)
    return [sut for sut in suts if not sut.missing]


def measure(
    sut: peers.Sut, place: peers.Place, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """One router: started, warmed, loaded, ended. Raises RuntimeError where it does not serve."""
    cores = sorted(os.sched_getaffinity(0))
    shared, own = cores[-1], cores[0]
    process = None
    if sut.command is not None:
        log = place.root / f"log.{sut.name}"
        process = load.start(sut.command, sut.environ, shared, log)
    port = place.port if process else place.pods[0]
    try:
        started = load.ready(port, place.root, process)
        idle = load.pss_mb(process.pid) if process else 0.0
        for warm in (load.Load(32, 2000, "small"), load.Load(16, 32, "small_s")):
            load.run(place.root, port, place.pods[0], warm, shared)
        for layout in options.layouts.split(","):
            if process:
                load.pin(process.pid, shared if layout == "one" else own)
            for name in options.loads.split(",") * options.slices:
                before = load.cpu(process.pid) if process else {}
                seen = load.run(place.root, port, place.pods[0], load.LOADS[name], shared)
                after = load.cpu(process.pid) if process else {}
                spent = sum(value - before.get(key, 0) for key, value in after.items())
                yield {"layout": layout, "test": name, "cpu_us": spent / 1000, **seen}
        loaded = load.pss_mb(process.pid) if process else 0.0
        yield {"test": "memory", "start_s": started, "idle_mb": idle, "loaded_mb": loaded}
    finally:
        if process:
            load.stop(process)


def main() -> int:
    options = arguments()
    unknown = set(options.loads.split(",")) - load.LOADS.keys()
    if unknown:
        print(
            f"no such load: {', '.join(unknown)}; known: {', '.join(load.LOADS)}", file=sys.stderr
        )
        return 2
    options.root = options.root.absolute()
    options.root.mkdir(parents=True, exist_ok=True)
    load.build(options.root)
    port, *pods = load.free_ports(3)
    place = peers.Place(options.root, port, (pods[0], pods[1]))
    peers.write_configuration(place)
    suts = chosen(options, place)
    out = options.out or options.root / "results.jsonl"
    command = [str(options.root / "fakevllm"), "-p", f"{pods[0]},{pods[1]}"]
    fake = load.start(command, {}, max(os.sched_getaffinity(0)), options.root / "log.pods")
    failed = False
    try:
        load.ready(pods[0], options.root, fake)
        with out.open("w") as lines:
            for number in range(options.rounds):
                turn = number % max(1, len(suts))
                for sut in suts[turn:] + suts[:turn]:
                    failed |= not record(sut, place, options, number, lines)
    finally:
        load.stop(fake)
    print(f"{load.interpreter()}, {options.rounds} rounds of {options.slices} slices; {out}\n")
    print(table.render([json.loads(line) for line in out.read_text().splitlines()]))
    return 1 if failed else 0


def record(
    sut: peers.Sut, place: peers.Place, options: argparse.Namespace, number: int, lines: Any
) -> bool:
    """Measure one router in one round and keep what was seen. False where it failed."""
    try:
        for row in measure(sut, place, options):
            lines.write(json.dumps({"round": number, "sut": sut.name, **row}) + "\n")
            lines.flush()
    except (RuntimeError, OSError) as error:
        print(f"round {number + 1}: {sut.name} FAILED: {error}", file=sys.stderr)
        return False
    print(f"round {number + 1}: {sut.name}", file=sys.stderr)
    return True


if __name__ == "__main__":
    sys.exit(main())
