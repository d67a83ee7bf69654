"""`python -m orchestrator` is the same as the `understudy` command."""

import signal
import sys


def main() -> None:
    """Entry point of the `understudy` command."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is something that Ctrl-C could leave half done
    from orchestrator.command_server.client import run_at_server

    run_at_server(sys.argv)
    from orchestrator.cli.main import main as run_here

    run_here()


if __name__ == "__main__":
    main()
