-- Say where a worker runs.
UPDATE workers SET process = :process, started_at = :now WHERE worker = :worker;
