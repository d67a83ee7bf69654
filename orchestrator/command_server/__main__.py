"""`python -m orchestrator.command_server DIRECTORY`: see `server`."""

from orchestrator.command_server.server import main

if __name__ == "__main__":
    main()
