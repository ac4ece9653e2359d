"""The rules that a simulation holds, by name."""

RULES = {
    "dense": "a history is dense, and its times never go back",
    "kept": "what was stored stays as it is",
    "owner": "nobody but the owner writes, and a claim makes a new owner",
    "ended": "after the end of an execution nothing changes",
    "once": "a call has one start and one outcome, a timer fires once, a pause is answered once",
    "inbox": "a message leaves the inbox in the commit that moves it into the history, and no other way",
    "child": "a call has at most one child, and hears of its end after that is stored",
    "rescue": "only the dead are rescued",
    "cause": "nothing acts before its cause is stored",
    "trust": "nothing acts for a process that may have lost its executions",
    "again": "what has a recorded outcome does not act again",
    "twice": "under one claim an attempt acts once",
    "acks": "what was acknowledged is in the history once, in the order of its sender",
    "replay": "no execution is blocked: the code fits its history, whatever happened",
    "error": "nobody sees an error but those that the database was to give",
    "output": "the output is that of the twin without faults",
    "effects": "the effects are those of the twin without faults",
    "liveness": "when faults stop, everything comes to its end",
}


class Violation(AssertionError):
    """A rule is broken.

    Args:
        rule: Its name.
    """

    def __init__(self, rule: str, text: str) -> None:
        assert rule in RULES, rule
        super().__init__(f"{rule} ({RULES[rule]}): {text}")
        self.rule = rule
