"""Commands without their start: a process beside `understudy serve` has all loaded and forks itself for each.

`client` is what every `understudy` runs first, `server` is that process, `worker` is a command in it (see
`docs/commands.md`). The client loads next to nothing: each import here is paid by every command.
"""
