-- Version 6: what is decided about deliveries before their first attempt: throttles, digests, cancel_on, quiet hours.

-- 0 nothing to decide, 1 undecided, 2 may go, 3 carries a digest that gathers, 4 gathered in one, 5 carries one that is closed.
-- One that is gathered has turn 3: it is in no queue.
ALTER TABLE deliveries ADD COLUMN stage INTEGER NOT NULL DEFAULT 0;
ALTER TABLE deliveries ADD COLUMN carrier INTEGER;     -- the place of the delivery inside which its event goes out
ALTER TABLE deliveries ADD COLUMN renewed_at INTEGER;  -- when a person last retried it: its ttl runs from there
CREATE INDEX deliveries_carried ON deliveries (carrier, state) WHERE carrier IS NOT NULL;
-- What quiet hours hold (cause 5), and what was not sent on purpose (4 suppressed, 5 digested, 6 expired), as it is listed.
CREATE INDEX deliveries_quiet ON deliveries (target_id) WHERE state = 0 AND cause = 5;
CREATE INDEX deliveries_unsent ON deliveries (state, place, target_id) WHERE state > 3;

-- What the rules want of a delivery, as JSON; no row where they want nothing.
CREATE TABLE handling (
    place   INTEGER PRIMARY KEY,
    plan    TEXT NOT NULL,
    cancels INTEGER NOT NULL   -- keys of `cancel_on` that no event has named yet
);

-- Which deliveries a later event of that key may cancel.
CREATE TABLE awaited (key BLOB NOT NULL, place INTEGER NOT NULL, PRIMARY KEY (key, place)) WITHOUT ROWID;
CREATE INDEX awaited_place ON awaited (place);

-- The last event that ended the window of a throttle's key.
CREATE TABLE resets (key BLOB PRIMARY KEY, seq INTEGER NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX resets_at ON resets (at);

-- What was let go, and what was not, by throttle key. Rows outlive their deliveries, so that a long window does.
CREATE TABLE throttled (
    target_id  INTEGER NOT NULL,
    key        BLOB NOT NULL,
    suppressed INTEGER NOT NULL,
    at         INTEGER NOT NULL,   -- when that was decided
    place      INTEGER NOT NULL,
    keep_until INTEGER NOT NULL,
    PRIMARY KEY (target_id, key, suppressed, at, place)
) WITHOUT ROWID;
CREATE INDEX throttled_kept ON throttled (keep_until);

-- Digests that gather.
CREATE TABLE digests (
    target_id INTEGER NOT NULL,
    key       BLOB NOT NULL,
    carrier   INTEGER NOT NULL,
    ends_at   INTEGER NOT NULL,
    gathered  INTEGER NOT NULL,    -- the carrier among them
    PRIMARY KEY (target_id, key)
) WITHOUT ROWID;
CREATE INDEX digests_carrier ON digests (carrier);
