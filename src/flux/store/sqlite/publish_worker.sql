-- Say where a worker runs, and what it has.
UPDATE workers SET process = :process, started_at = :now, labels = :labels WHERE worker = :worker;
