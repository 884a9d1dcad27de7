"""The command line, with trials that stand in for real ones."""

from functools import partial

from orchestrator import api, cli

for command in ("search", "demo", "resume"):
    setattr(api, command, partial(getattr(api, command), function="trial_doubles:chosen"))

if __name__ == "__main__":
    cli.main()
