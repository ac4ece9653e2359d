"""Deterministic simulation: several processes, each a real app and engine, on one store, while everything goes wrong.

One virtual clock and one seed decide whose turn it is and what fails, so that a seed that fails fails again.  The map:

- `universe`: the clock, the lottery, and the order in which things happen.
- `loop`, `committer`, `process`: what a simulated process consists of besides the real engine.
- `faults`, `strikes`: what may go wrong in a seed, the store that lets it go wrong, and when it does.
- `world`, `people`: what tasks act on, and who starts, answers, signals and cancels.
- `rules`, `checker`, `verdict`: what must hold, after every write and at the end.
- `programs`: workflows that nobody thought of.
- `plan`, `trial`: what a seed is about, and a universe from its beginning to its end.
- `run`: one seed beside its twin without faults, and many seeds; `__main__` is the command.
- `bugs`: engines with a bug, each of which a rule must find.
"""
