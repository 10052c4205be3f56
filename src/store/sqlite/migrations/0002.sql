-- Version 2: order, severity, replays, what a person did to a delivery, and who owns the lanes.

ALTER TABLE identity ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;  -- of the last owner of the shards

ALTER TABLE deliveries ADD COLUMN order_key BLOB;                               -- 16 bytes
ALTER TABLE deliveries ADD COLUMN severity INTEGER NOT NULL DEFAULT 0;          -- 0 info, 1 warning, 2 critical
-- Where a pending one stands in its lane: 0 first (critical), 1 with the rest, 2 behind an earlier one of its order key.
ALTER TABLE deliveries ADD COLUMN turn INTEGER NOT NULL DEFAULT 1;
ALTER TABLE deliveries ADD COLUMN replay INTEGER NOT NULL DEFAULT 0;            -- 1: made by a replay
ALTER TABLE deliveries ADD COLUMN uncounted INTEGER NOT NULL DEFAULT 0;         -- attempts that the policy does not count
ALTER TABLE deliveries ADD COLUMN stood_still_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN out_of_order INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN resolved_at INTEGER;                          -- of a dead letter that a person settled
ALTER TABLE deliveries ADD COLUMN note TEXT;                                    -- with this

-- The queues of each lane. `created_at` makes the backlog's query an index-only one.
DROP INDEX deliveries_pending;
CREATE INDEX deliveries_pending ON deliveries (target_id, turn, due_at, created_at) WHERE state = 0;
-- Who waits for whom.
CREATE INDEX deliveries_ordered ON deliveries (target_id, order_key, turn) WHERE state = 0 AND order_key IS NOT NULL;
-- Dead letters as they are counted and pruned: those that nobody has settled.
DROP INDEX deliveries_died;
CREATE INDEX deliveries_died ON deliveries (target_id, resolved_at, settled_at) WHERE state = 2;

ALTER TABLE attempts ADD COLUMN counts INTEGER NOT NULL DEFAULT 1;
ALTER TABLE attempts ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;

-- An accepted event is to touch as few pages as can be: keys that have had their time are found by walking over the table.
DROP INDEX dedupe_forget;

-- Steps of replays that are done, and what they made: deliveries `first` to `last` of the event.
CREATE TABLE replays (
    id    INTEGER PRIMARY KEY,
    tag   TEXT NOT NULL UNIQUE,
    seq   INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last  INTEGER NOT NULL,
    at    INTEGER NOT NULL
);
