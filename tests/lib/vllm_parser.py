"""Run by vLLM's own Python: what vLLM's server makes of command lines.

Reads a JSON list of argument lists on stdin and prints one JSON document: `options`, every long
option its parser knows, and `read`, for each list which options it sets ({option: value}) or, where
it cannot be parsed, its error.
"""

import argparse
import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout

with redirect_stdout(sys.stderr):  # a library's greeting is no JSON
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser


class Unparsed(Exception):
    """The parser would have ended the process."""


def strict(message):
    raise Unparsed(message)


def prepared():
    """vLLM's own parser, made to say what is set: names are tried, so any value will do."""
    parser = make_arg_parser(FlexibleArgumentParser())
    parser.error = strict
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        action.type, action.choices, action.default = None, None, None
        if type(action).__module__ != "argparse":  # it would look at the value
            action.__class__ = argparse._StoreAction
        if isinstance(action, argparse._StoreAction) and action.option_strings:
            action.nargs = "*"
    return parser


def tried(parser, args, names):
    try:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            found = vars(parser.parse_args(args))
    except Unparsed as error:
        return {"error": str(error)}
    except (SystemExit, Exception) as error:  # noqa: BLE001 - whatever a strange line leads to
        return {"error": f"{type(error).__name__}: {error}"}
    return {
        "set": sorted(names.get(dest, dest) for dest, value in found.items() if value is not None)
    }


def main():
    parser = prepared()
    names, options = {}, set()
    for action in parser._actions:
        long = [option for option in action.option_strings if option.startswith("--")]
        options.update(long)
        if long:
            names.setdefault(action.dest, long[0].removeprefix("--"))
    read = [tried(parser, args, names) for args in json.load(sys.stdin)]
    json.dump({"options": sorted(options), "read": read}, sys.stdout)


main()
