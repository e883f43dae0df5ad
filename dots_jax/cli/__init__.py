"""The `dots` command. One file a subcommand, whose docstring is its --help; `main` finds it, `execute` runs it.

`options` says what each command takes, and any room may read those types. `gin_config` and `gin_check` turn gin files into
one checked config; no other file imports gin.
"""
