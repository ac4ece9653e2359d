-- List the workers whose death a rescue looks into.
SELECT worker, lease_expires_at FROM workers;
