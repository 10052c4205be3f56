-- What a store of version 1 held: one event waits after a failed attempt, one is a dead letter.
PRAGMA application_id = 1214994788;
PRAGMA user_version = 1;
INSERT INTO identity (salt, last_seq) VALUES (77, 2);
INSERT INTO targets VALUES (1, 'crm');
INSERT INTO events (seq, id, source, kind, type, time, timestamp, received_at, replayed, rules, deliveries) VALUES
    (1, 'evt_1', 'app', 'interactor', 'a.b', '2026-01-20T11:00:00Z', '2026-01-20T11:00:00Z', 1768906800000, 0, '["all"]', 1),
    (2, 'evt_2', 'app', 'interactor', 'a.b', '2026-01-20T11:00:00Z', '2026-01-20T11:00:00Z', 1768906800000, 0, '["all"]', 1);
INSERT INTO payloads VALUES (1, CAST('one' AS BLOB)), (2, CAST('two' AS BLOB));
INSERT INTO deliveries (place, target_id, state, cause, created_at, due_at, settled_at, first_attempt_at, attempts, error) VALUES
    (65537, 1, 0, NULL, 1768906800000, 1768906801000, NULL, 1768906800000, 1, 'timeout'),
    (131073, 1, 2, 0, 1768906800000, NULL, 1768906800000, 1768906800000, 1, 'http_400');
INSERT INTO attempts (place, number, started_at, duration_us, outcome, response) VALUES
    (65537, 1, 1768906800000, 1000, 0, x''), (131073, 1, 1768906800000, 1000, 2, x'');
