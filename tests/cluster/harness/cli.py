"""`cli.py up | down | build`: the cluster by hand. stdout's last line is the kubeconfig's path."""

import os
import sys
from pathlib import Path

USAGE = "usage: cli.py up | down | build"


def main(words: list[str]) -> int:
    """Do one command; status 2 for a wrong one, 1 where root is needed and absent."""
    # As a script, the folder above is where `harness` is found.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from harness import cluster, tools

    match words:
        case ["build"]:
            print(tools.build().kubernetes)
        case ["up" | "down", *rest] if rest == [] and os.geteuid() != 0:
            print("a cluster needs root: mounts, network links, control groups", file=sys.stderr)
            return 1
        case ["up"]:
            print(cluster.up().kubeconfig)
        case ["down"]:
            cluster.down()
        case _:
            print(USAGE, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
