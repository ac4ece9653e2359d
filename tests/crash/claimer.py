"""A process that claims executions with a short lease, works on them, and often sleeps past its lease.

Usage: claimer.py BUILD SEED.  It ends when every execution is finished, and tells in lines what it was given and what
was refused.
"""

import random
import sys
import time
from pathlib import Path

import flux.store.sqlite as adapter
from flux import serde
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import ExecutionState
from flux.ids import new_id
from flux.ports import Append, AppendResult, Claim
from flux.store.sqlite import SqliteStore

LEASE_US = 150_000
STEPS = 4


def same_fence() -> None:
    """BROKEN: a claim does not raise the fence."""
    adapter._SQL["claim_execution"] = adapter._SQL["claim_execution"].replace(
        "fence = fence + 1", "fence = max(fence, 1)"
    )


BUILDS = {"sound": lambda: None, "same_fence": same_fence}


def now() -> int:
    return time.time_ns() // 1000


class Claimer:
    def __init__(self, rng: random.Random) -> None:
        self.rng, self.worker = rng, new_id()
        self.store = SqliteStore(Path("flux.db"))
        self.store._quarantine = lambda cursor, worker: 0  # Sleeping is what they do here.
        self.store.register_worker(self.worker, lease_expires_at=now() + LEASE_US)

    def run(self) -> None:
        while any(
            self.store.list(state=state, limit=1) for state in (ExecutionState.SCHEDULED, ExecutionState.RUNNING)
        ):
            if not self.store.heartbeat(self.worker, lease_expires_at=now() + LEASE_US):
                self.store.register_worker(self.worker, lease_expires_at=now() + LEASE_US)
            self.store.rescue(now=now())
            for claim in self.store.claim_ready(worker=self.worker, workflows={"greet": "1"}, now=now(), limit=3):
                print("given", claim.row.execution_id, claim.row.fence, flush=True)
                self.work(claim)
        self.store.close()

    def work(self, claim: Claim) -> None:
        """Append the steps that are missing, until it is refused; the last one finishes the execution."""
        for seq in range(claim.row.last_seq, STEPS):
            if self.rng.random() < 0.12:
                time.sleep(self.rng.uniform(1.1, 2.5) * LEASE_US / 1e6)
            (result,) = self.store.append([self.step(claim, seq)])
            if result is not AppendResult.STORED:
                print("refused", claim.row.execution_id, claim.row.fence, result, flush=True)
                return

    def step(self, claim: Claim, seq: int) -> Append:
        is_last = seq == STEPS - 1
        event = ExecutionEvent(
            claim.row.execution_id,
            seq + 1,
            Type.WORKFLOW_COMPLETED if is_last else Type.TASK_STARTED,
            str(seq),
            "step",
            serde.encode({"key": str(seq)}),
            None,
            time_us=now(),
        )
        state = ExecutionState.COMPLETED if is_last else ExecutionState.RUNNING
        return Append(
            execution_id=claim.row.execution_id,
            fence=claim.row.fence,
            expected_seq=seq,
            events=[event],
            state=state,
        )


if __name__ == "__main__":
    BUILDS[sys.argv[1]]()
    Claimer(random.Random(int(sys.argv[2]))).run()
    print("end", flush=True)
