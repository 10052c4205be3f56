-- Version 1. Times are milliseconds since 1970. A delivery's `place` is its event's `seq` << 16 | `n` (`DeliveryId::place`). Codes of
-- states, causes, stages and severities are those of `store/codes.rs`. NUL, which PostgreSQL's text does not know, is written as SUB 0.

-- One row: what belongs to the store itself. Whoever writes what others must see in order holds its lock until the commit.
CREATE TABLE identity (
    one       BOOLEAN PRIMARY KEY DEFAULT true CHECK (one),
    salt      BIGINT NOT NULL,             -- first half of every id, drawn at random here
    last_seq  BIGINT NOT NULL DEFAULT 0,   -- the last `seq` given out or passed over: it outlives the event, so that none is given twice
    epoch     BIGINT NOT NULL DEFAULT 0,   -- the last that was given to owners of shards
    used      BIGINT NOT NULL DEFAULT 0,   -- bytes of the events that are held, as they were counted when they came
    probed_at BIGINT,                      -- when the store last proved that it can write
    server    TIMESTAMPTZ,                 -- since when the server runs that gave out the numbers above; another may not know the last of them
    revision  BIGINT NOT NULL DEFAULT 0    -- no record gets this number or one before it
) WITH (fillfactor = 10);

-- Bytes of bodies and answers that came later; a sum over rows, so that nobody waits for another.
CREATE TABLE usage (slot SMALLINT PRIMARY KEY, bytes BIGINT NOT NULL) WITH (fillfactor = 10);
INSERT INTO usage SELECT n, 0 FROM generate_series(0, 63) AS n;

CREATE TABLE settings (key TEXT COLLATE "C" PRIMARY KEY, value TEXT NOT NULL);

-- `shard`: of the lane (`shard_of`).
CREATE TABLE targets (
    id    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name  TEXT NOT NULL UNIQUE,
    shard SMALLINT NOT NULL
);

-- Who owns the shards of lanes.
CREATE TABLE shards (
    shard   SMALLINT PRIMARY KEY,
    owner   BIGINT,
    epoch   BIGINT NOT NULL DEFAULT 0,
    until   BIGINT NOT NULL DEFAULT 0,
    leaving BOOLEAN NOT NULL DEFAULT false -- its owner holds more than its share: the lease is not renewed
) WITH (fillfactor = 50);
INSERT INTO shards (shard) SELECT n FROM generate_series(0, 255) AS n;

-- Who shares the shards. `place`: the machine on which it can be seen to live. `lacks`: those with lanes that its configuration, an older one, does not know; others own them where they can.
-- `doc`: what it says of itself, as JSON.
CREATE TABLE owners (
    owner   BIGINT PRIMARY KEY,
    until   BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    place   TEXT,
    leaving BOOLEAN NOT NULL DEFAULT false, -- it finishes what is under way: the others share as if it were gone
    lacks   SMALLINT[] NOT NULL DEFAULT '{}',
    doc     TEXT NOT NULL DEFAULT ''
);

-- Events, and what belongs to them, lie in partitions by `seq`, which are made, filled and dropped one after the other
-- (`postgres/partitions.rs`): number n holds what comes from n << 30 on, and -1 whatever no other does.
CREATE TABLE partitions (
    number   BIGINT PRIMARY KEY,
    begun_at BIGINT,                       -- since when new events come into it
    ended_at BIGINT,                       -- since when they do not
    bytes    BIGINT NOT NULL DEFAULT 0,    -- of `identity.used`, what its events are; counted once it has ended
    sliced   BOOLEAN NOT NULL DEFAULT false -- what is old in it goes row by row: too much of it has to stay
);

CREATE TABLE events (
    seq               BIGINT PRIMARY KEY,
    id                TEXT NOT NULL,
    source            TEXT NOT NULL,
    kind              TEXT NOT NULL,
    type              TEXT NOT NULL,
    subject           TEXT,
    namespace         TEXT,
    time              TEXT NOT NULL,
    timestamp         TEXT NOT NULL,
    received_at       BIGINT NOT NULL,
    traceparent       TEXT,
    replayed          BOOLEAN NOT NULL,
    content_type      TEXT,
    data_start        INTEGER,             -- which bytes of the body are the sender's `data`; null where it sent none
    data_len          INTEGER,
    rules             TEXT NOT NULL,       -- names as a JSON array
    deliveries        INTEGER NOT NULL,    -- how many were planned
    duplicates        INTEGER NOT NULL DEFAULT 0,
    mismatches        INTEGER NOT NULL DEFAULT 0,
    last_duplicate_at BIGINT,
    size              BIGINT NOT NULL,     -- what it adds to `identity.used`
    body              BYTEA NOT NULL
) PARTITION BY RANGE (seq);
-- Compressing costs more than it saves where every byte is written once.
ALTER TABLE events ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE TABLE deliveries (
    place            BIGINT PRIMARY KEY,
    target_id        BIGINT NOT NULL,
    created_at       BIGINT NOT NULL,
    due_at           BIGINT,               -- of a pending one
    settled_at       BIGINT,               -- when it became final
    first_attempt_at BIGINT,
    stood_still_ms   BIGINT NOT NULL DEFAULT 0,
    resolved_at      BIGINT,               -- of a dead letter that a person settled
    renewed_at       BIGINT,               -- when a person last retried it: its ttl runs from there
    carrier          BIGINT,               -- the place of the delivery inside which its event goes out; or see `recipient`
    attempts         INTEGER NOT NULL DEFAULT 0,
    uncounted        INTEGER NOT NULL DEFAULT 0,
    unmade           INTEGER NOT NULL DEFAULT 0,  -- how often something was taken out of the digest it carries
    state            SMALLINT NOT NULL,
    cause            SMALLINT,
    severity         SMALLINT NOT NULL DEFAULT 0,
    -- Where a pending one stands in its lane: 0 first (critical), 1 with the rest, 2 behind an earlier one of its order key, 3 gathered
    -- in a digest, 4 taken and not yet reported on (it holds its order key, and counts as delivered at `due_at`).
    turn             SMALLINT NOT NULL DEFAULT 1,
    stage            SMALLINT NOT NULL DEFAULT 0,
    replay           BOOLEAN NOT NULL DEFAULT false,
    out_of_order     BOOLEAN NOT NULL DEFAULT false,
    unconfirmed      BOOLEAN NOT NULL DEFAULT false,
    order_key        BYTEA,                -- 16 bytes
    rule             TEXT,
    template         TEXT,
    error            TEXT,
    note             TEXT,                 -- what a person settled a death with, or why it was not sent
    recipient        TEXT                  -- whom it is for, once one that was for several was split: of a digest, the others name
                                           -- the first one, which those inside name too, as their `carrier`
) PARTITION BY RANGE (place);
-- The queues of each lane.
CREATE INDEX deliveries_pending ON deliveries (target_id, turn, due_at, created_at, place) WHERE state = 0;
-- Who waits for whom.
CREATE INDEX deliveries_ordered ON deliveries (target_id, order_key, turn, place) WHERE state = 0 AND order_key IS NOT NULL;
-- What was tried and waits, in the order in which it reaches its give-up time.
CREATE INDEX deliveries_tried ON deliveries (target_id, (first_attempt_at - stood_still_ms))
    WHERE state = 0 AND first_attempt_at IS NOT NULL;
-- Dead letters: as they are listed; and as they are counted and pruned, those that nobody has settled.
CREATE INDEX deliveries_dead ON deliveries (place, target_id) WHERE state = 2;
CREATE INDEX deliveries_died ON deliveries (target_id, settled_at) WHERE state = 2 AND resolved_at IS NULL;
CREATE INDEX deliveries_carried ON deliveries (carrier, state, place) WHERE carrier IS NOT NULL;
CREATE INDEX deliveries_quiet ON deliveries (target_id) WHERE state = 0 AND cause = 5;
CREATE INDEX deliveries_unsent ON deliveries (state, place) WHERE state > 3;
-- The deliveries of one subscription, as its log lists them: its id, which begins so, stands as the rule that planned them.
CREATE INDEX deliveries_subscribed ON deliveries (target_id, place) WHERE starts_with(rule, 'wh_');
CREATE INDEX deliveries_unreported ON deliveries (due_at) WHERE state = 0 AND turn = 4;

-- Bodies that were made from a template. `progress`: what attempts leave to be done of a message that several people get; `reached`:
-- whether any of them has it.
CREATE TABLE bodies (
    place        BIGINT PRIMARY KEY,
    content_type TEXT NOT NULL,
    body         BYTEA NOT NULL,
    progress     BYTEA,
    reached      BOOLEAN NOT NULL DEFAULT false
) PARTITION BY RANGE (place);
ALTER TABLE bodies ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE TABLE attempts (
    place       BIGINT NOT NULL,
    number      INTEGER NOT NULL,
    started_at  BIGINT NOT NULL,
    duration_us BIGINT NOT NULL,
    status      INTEGER,
    error       TEXT,
    detail      TEXT,
    outcome     SMALLINT NOT NULL,         -- the delivery's state after it; 100: taken and not yet reported on
    cause       SMALLINT,                  -- where that is dead
    retry_at    BIGINT,                    -- where that is pending
    response    BYTEA NOT NULL,
    counts      BOOLEAN NOT NULL DEFAULT true,
    epoch       BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (place, number)
) PARTITION BY RANGE (place);

-- How events are known again. Rows outlive their events.
CREATE TABLE dedupe (
    key       BYTEA PRIMARY KEY,           -- 16 bytes
    body      BYTEA NOT NULL,              -- 16 bytes
    seq       BIGINT NOT NULL,             -- the event
    seen_at   BIGINT NOT NULL,             -- when it was accepted
    hashed    BOOLEAN NOT NULL,            -- its id is a hash of the body
    suffix    BIGINT,                      -- what was put behind that id
    forget_at BIGINT NOT NULL
);

-- What the rules want of a delivery, as JSON; no row where they want nothing. `cancels`: keys of `cancel_on` that no event has named yet.
CREATE TABLE handling (place BIGINT PRIMARY KEY, plan TEXT NOT NULL, cancels INTEGER NOT NULL) PARTITION BY RANGE (place);
-- Which deliveries a later event of that key may cancel.
CREATE TABLE awaited (key BYTEA NOT NULL, place BIGINT NOT NULL, PRIMARY KEY (key, place)) PARTITION BY RANGE (place);
CREATE INDEX awaited_place ON awaited (place);
-- The last event that ended the window of a throttle's key.
CREATE TABLE resets (key BYTEA PRIMARY KEY, seq BIGINT NOT NULL, at BIGINT NOT NULL);
CREATE INDEX resets_at ON resets (at);
-- What was let go, and what was not, by throttle key. Rows outlive their deliveries, so that a long window does.
CREATE TABLE throttled (
    target_id  BIGINT NOT NULL,
    key        BYTEA NOT NULL,
    suppressed BOOLEAN NOT NULL,
    at         BIGINT NOT NULL,            -- when that was decided
    place      BIGINT NOT NULL,
    keep_until BIGINT NOT NULL,
    PRIMARY KEY (target_id, key, suppressed, at, place)
);
CREATE INDEX throttled_kept ON throttled (keep_until);
-- Digests that gather.
CREATE TABLE digests (
    target_id BIGINT NOT NULL,
    key       BYTEA NOT NULL,
    carrier   BIGINT NOT NULL,
    ends_at   BIGINT NOT NULL,
    gathered  INTEGER NOT NULL,            -- the carrier among them
    PRIMARY KEY (target_id, key)
);
CREATE INDEX digests_carrier ON digests (carrier);

CREATE TABLE rejections (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source      TEXT,
    at          BIGINT NOT NULL,
    status      INTEGER NOT NULL,
    code        TEXT NOT NULL,
    reason      TEXT NOT NULL,
    path        TEXT NOT NULL,
    remote      TEXT NOT NULL,
    bytes       BIGINT NOT NULL,
    accepted_as TEXT,
    retried_at  BIGINT
);
CREATE INDEX rejections_at ON rejections (at);
-- The rejections that are kept whole; `source` is '' for paths of no source.
CREATE TABLE quarantine (id BIGINT PRIMARY KEY, source TEXT NOT NULL, size BIGINT NOT NULL, sealed BYTEA NOT NULL);
ALTER TABLE quarantine ALTER COLUMN sealed SET STORAGE EXTERNAL;
CREATE INDEX quarantine_source ON quarantine (source, id DESC) INCLUDE (size);

-- Steps of replays that are done, and what they made: deliveries `first` to `last` of the event.
CREATE TABLE replays (
    id    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tag   TEXT NOT NULL UNIQUE,
    seq   BIGINT NOT NULL,
    first INTEGER NOT NULL,
    last  INTEGER NOT NULL,
    at    BIGINT NOT NULL
);
CREATE INDEX replays_seq ON replays (seq);

-- What later messages of a thread answer to: Slack's `ts`, as it was given.
CREATE TABLE threads (key BYTEA PRIMARY KEY, root TEXT NOT NULL, begun_at BIGINT NOT NULL);

-- What people manage by API (subscriptions, tokens), and who changed what. `revision` grows with every change of any record; what is
-- removed stays for a day as a row without a document, for others to see it.
CREATE TABLE records (
    kind       TEXT NOT NULL,
    id         TEXT NOT NULL,
    owner      TEXT NOT NULL,
    revision   BIGINT NOT NULL,
    doc        TEXT,
    sealed     BYTEA,
    removed_at BIGINT,
    PRIMARY KEY (kind, id)
);
CREATE INDEX records_revision ON records (revision);
CREATE INDEX records_owner ON records (kind, owner) WHERE doc IS NOT NULL;
CREATE TABLE audit (
    id      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      BIGINT NOT NULL,
    who     TEXT NOT NULL,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL,
    before  TEXT,
    after   TEXT
);
CREATE INDEX audit_at ON audit (at);
