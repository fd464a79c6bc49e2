"""`livemarks completion`: completion for a shell, made by shtab from the parser itself."""

from __future__ import annotations

import argparse
from importlib import import_module


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    parser.epilog = 'For this session: eval "$(livemarks completion bash)". For good: put that line into ~/.bashrc.'


def run(args: argparse.Namespace) -> int:
    from livemarks.types import LivemarksError

    try:
        shtab = import_module("shtab")
    except ModuleNotFoundError as error:
        raise LivemarksError("shell completion is made by shtab, which is not installed: pip install shtab") from error
    if args.shell not in shtab.SUPPORTED_SHELLS:
        raise LivemarksError(f"the shtab that is installed doesn't know {args.shell}: pip install --upgrade shtab")
    print(shtab.complete(args.parser, args.shell))
    return 0
