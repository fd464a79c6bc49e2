"""One module per subcommand of `livemarks`, named as it is: `options(parser)` and `run(args) -> exit status`."""
