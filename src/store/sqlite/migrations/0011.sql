-- Version 11: what people manage by API (subscriptions, tokens), and who changed what.
CREATE TABLE records (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    owner TEXT NOT NULL,
    -- Grows with every change of any record; what is removed stays for a day as a row without a document, for others to see it.
    revision INTEGER NOT NULL,
    doc TEXT,
    sealed BLOB,
    removed_at INTEGER,
    PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE INDEX records_revision ON records (revision);
CREATE INDEX records_owner ON records (kind, owner) WHERE doc IS NOT NULL;

CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    before TEXT,
    after TEXT
);
CREATE INDEX audit_at ON audit (at);
