//! What ails a store in a database, or soon will; see [`crate::store::doctor`]. Everything is asked in plain statements, one by one: they
//! work through whatever stands in between, and to find out what does is a part of it.

use std::sync::Arc;

use tokio_postgres::{
    Client, SimpleQueryMessage,
    config::{Host, SslMode},
};

use super::{
    BATCHES, LANES, LISTS, LOOKS, WALKS, WORK,
    connect::fault,
    owners::LEASE_MAX_MS,
    schema,
    servers::Servers,
    text::unwritten,
    tls::Tls,
    url::{self, Place, Verify},
};
use crate::{
    clock::{Clock, to_ms},
    secret::Secret,
    store::{
        Error, Record, RecordKind, Result,
        copy::unfinished,
        doctor::{Examined, Finding, size},
    },
};

mod server;

/// Connections of one relay: its pools, and the one that listens.
const PER_REPLICA: i64 = (BATCHES + WORK + LANES + LOOKS + LISTS + WALKS + 1) as i64;
/// Connections that are made at once to find out whether each has a session of its own.
const SESSIONS: usize = 3;

/// A connection that is only asked.
struct Asked {
    client: Client,
}

/// A row, as text.
type Texts = Vec<Option<String>>;

impl Asked {
    async fn connect(servers: &Arc<Servers>) -> Result<Self> {
        Ok(Self { client: servers.connect().await?.watched(servers) })
    }

    /// The rows of `sql`.
    async fn rows(&self, sql: &str) -> Result<Vec<Texts>> {
        let said = self.client.simple_query(sql).await.map_err(|error| fault(&error))?;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect()),
            _ => None,
        };
        Ok(said.into_iter().filter_map(row).collect())
    }

    /// The first row, as text; empty where there is nothing.
    async fn row(&self, sql: &str) -> Result<Vec<String>> {
        Ok(self.rows(sql).await?.into_iter().next().unwrap_or_default().into_iter().map(Option::unwrap_or_default).collect())
    }

    /// The first cell.
    async fn text(&self, sql: &str) -> Result<String> {
        Ok(self.row(sql).await?.into_iter().next().unwrap_or_default())
    }

    /// The first cell, as a number; 0 where it is none.
    async fn number(&self, sql: &str) -> Result<i64> {
        Ok(self.text(sql).await?.parse().unwrap_or_default())
    }

    async fn is(&self, sql: &str) -> Result<bool> {
        Ok(self.text(sql).await? == "t")
    }
}

/// Looks at the store at `url`.
pub(in crate::store) async fn examine(url: &Secret, clock: &Clock) -> Result<Examined> {
    let place = url::parse(url.reveal()).map_err(|reason| Error::Unreadable(format!("the store's URL: {reason}")))?;
    let tls = Tls::new(&place)?;
    let servers = Arc::new(Servers::new(place, tls));
    let (db, place) = (Asked::connect(&servers).await?, servers.place());
    let mut all = Examined::default();
    let found = &mut all.findings;
    found.push(version(&db, place).await?);
    found.push(server::encoding(&db).await?);
    found.push(encrypted(&db, place).await?);
    found.push(pooler(&servers).await?);
    found.push(clocks(&db, clock).await?);
    found.push(server::on_disk(&db).await?);
    found.extend(server::standbys(&db).await?);
    let replicas = match db.is("SELECT to_regclass(quote_ident(current_schema()) || '.hookyard') IS NOT NULL").await? {
        true => store(&db, &mut all).await?,
        false => {
            all.findings.push(Finding::good("schema", "there is no store in it yet: the first start makes it"));
            0
        }
    };
    all.findings.push(connections(&db, replicas).await?);
    all.findings.extend(server::ailments(&db).await?);
    Ok(all)
}

/// Oldest version of which every statement is known.
const OLDEST: i64 = 12;
/// Oldest version that its makers still look after.
const MAINTAINED: i64 = 14;

async fn version(db: &Asked, place: &Place) -> Result<Finding> {
    let sql = "SELECT current_setting('server_version_num')::int / 10000, current_setting('server_version'), current_database(),
        coalesce(host(inet_server_addr()) || ':' || inet_server_port(), 'a socket'), pg_database_size(current_database())";
    let row = db.row(sql).await?;
    let [major, version, database, at, bytes] = row.as_slice() else {
        return Err(Error::Backend("the server said nothing".into()));
    };
    let others = place.config.get_hosts().len().saturating_sub(1);
    let beside = if others == 0 { String::new() } else { format!(", {others} more in the URL") };
    let said = format!("PostgreSQL {version}, database {database} at {at}{beside}, {}", size(bytes.parse().unwrap_or_default()));
    Ok(match major.parse::<i64>().unwrap_or_default() {
        old if old < OLDEST => Finding::bad("server", said, format!("use PostgreSQL {OLDEST} or newer")),
        old if old < MAINTAINED => Finding::warning("server", said, "its makers look after this version no more: upgrade it"),
        _ => Finding::good("server", said),
    })
}

async fn encrypted(db: &Asked, place: &Place) -> Result<Finding> {
    let row = db.row("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await?;
    let tls = row.first().is_some_and(|it| it == "t");
    let near = place.config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|it: std::net::IpAddr| it.is_loopback()),
        #[cfg(unix)]
        Host::Unix(_) => true,
    });
    let protocol = row.get(1).map_or("", String::as_str);
    let how = match (tls, place.verify) {
        (false, _) => "nothing encrypts the connection".to_owned(),
        (true, Verify::Nothing) => format!("{protocol}; whose certificate it is was not asked"),
        (true, Verify::Authority) => format!("{protocol}, by an authority that is trusted; for which name was not asked"),
        (true, Verify::Full) => format!("{protocol}, by an authority that is trusted, for this name"),
    };
    Ok(match place.verify {
        Verify::Full => Finding::good("encryption", how),
        _ if near => Finding::good("encryption", format!("{how}; the server is on this machine")),
        _ if !tls => Finding::warning("encryption", format!("{how}: all of it can be read on its way"), VERIFY),
        _ => {
            let mode =
                if place.config.get_ssl_mode() == SslMode::Prefer { ", and one that speaks none would be taken too" } else { "" };
            Finding::warning("encryption", format!("{how}: another machine could answer in its place{mode}"), VERIFY)
        }
    })
}

const VERIFY: &str = "say sslmode=verify-full in store.url, and sslrootcert=<file> where the authority is your own";

/// Whether each connection has a session of its own. Between two transactions of the first, others begin one: where sessions are handed
/// around, one of them gets the first's, or the first another.
async fn pooler(servers: &Arc<Servers>) -> Result<Finding> {
    const PID: &str = "SELECT pg_backend_pid()";
    let mut all = Vec::new();
    for _ in 0..SESSIONS {
        all.push(Asked::connect(servers).await?);
    }
    let [first, others @ ..] = all.as_slice() else { return Ok(Finding::good("sessions", "not looked at")) };
    let mark = format!("{:016x}", fastrand::u64(..));
    let own = first.row(&format!("SELECT set_config('hookyard.doctor', '{mark}', false), pg_backend_pid()")).await?;
    let own = own.get(1).cloned().unwrap_or_default();
    let mut shared = false;
    for other in others {
        // Left open until the connection ends.
        let begun = other.client.batch_execute("BEGIN").await;
        shared |= begun.is_err() || other.text(PID).await? == own;
    }
    let after = first.row("SELECT coalesce(current_setting('hookyard.doctor', true), ''), pg_backend_pid()").await?;
    shared |= after != [mark, own];
    Ok(if shared {
        Finding::bad(
            "sessions",
            "a pooler hands one session around among connections: settings, LISTEN and locks are lost between two transactions",
            "connect to the server itself, or set the pooler's pool_mode to session (pgbouncer)",
        )
    } else {
        Finding::good("sessions", "each connection has its own")
    })
}

/// How far clocks may be apart, in ms: retries, windows and sessions of senders go by the machine's, leases by the database's.
const APART: i64 = 2000;

async fn clocks(db: &Asked, clock: &Clock) -> Result<Finding> {
    let before = to_ms(clock.now());
    let there = db.number("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint").await?;
    let after = to_ms(clock.now());
    let (ahead, unsure) = (there - before.midpoint(after), (after - before) / 2 + 1);
    let said = format!("the database's is {ahead} ms ahead of this machine's, give or take {unsure} ms");
    Ok(if APART + unsure < ahead.abs() {
        Finding::warning("clock", said, "let both machines follow the same time server (chrony, systemd-timesyncd)")
    } else {
        Finding::good("clock", said)
    })
}

/// What is in the store: how many relays work on it.
async fn store(db: &Asked, all: &mut Examined) -> Result<i64> {
    let row = db.row("SELECT version, works_since FROM hookyard").await?;
    let number = |at: usize| row.get(at).and_then(|it| it.parse::<i32>().ok()).unwrap_or_default();
    let (version, works_since, known) = (number(0), number(1), schema::VERSION);
    if known < works_since {
        let said = format!("version {version}, which needs a hookyard that knows version {works_since}; this one knows {known}");
        all.findings.push(Finding::bad("schema", said, "use a newer hookyard"));
        return Ok(0);
    }
    all.findings.push(match version.cmp(&known) {
        std::cmp::Ordering::Less => {
            Finding::good("schema", format!("version {version}: the next start of this hookyard brings it to {known}"))
        }
        std::cmp::Ordering::Equal => Finding::good("schema", format!("version {version}")),
        std::cmp::Ordering::Greater => {
            Finding::good("schema", format!("version {version}, with which this hookyard, which knows {known}, works too"))
        }
    });
    let mark = db.rows("SELECT value FROM settings WHERE key = 'store.copy'").await?;
    let mark = mark.into_iter().flatten().flatten().next();
    if let Err(error) = unfinished(mark.as_deref()) {
        all.findings.push(Finding::bad("copy", error.to_string(), "hookyard store copy"));
    }
    all.findings.extend(server::partitions(db).await?);
    all.sealed = sealed(db).await?;
    let now = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    let held = format!("until BETWEEN {now} + 1 AND {now} + {LEASE_MAX_MS}");
    let live = db.number(&format!("SELECT count(*) FROM owners WHERE {held}")).await?;
    let free = db.number(&format!("SELECT count(*) FROM shards WHERE owner IS NULL OR NOT {held}")).await?;
    all.findings.push(match (live, free) {
        (0, _) => Finding::good("relays", "none works on it"),
        (n, 0) => Finding::good("relays", format!("{n} work on it, and every lane is one's")),
        (n, free) => Finding::good("relays", format!("{n} work on it; {free} of 256 shards of lanes are being taken over")),
    });
    Ok(live)
}

/// The subscriptions with their sealed secrets.
async fn sealed(db: &Asked) -> Result<Vec<Record>> {
    let sql =
        "SELECT id, owner, revision, doc, encode(sealed, 'hex') FROM records WHERE kind = 'subscription' AND doc IS NOT NULL";
    let record = |row: Texts| {
        let mut cells = row.into_iter();
        let mut next = || cells.next().flatten();
        Record {
            kind: RecordKind::Subscription,
            id: next().map(|it| unwritten(&it)).unwrap_or_default(),
            owner: next().map(|it| unwritten(&it)).unwrap_or_default(),
            revision: next().and_then(|it| it.parse().ok()).unwrap_or_default(),
            doc: next().map(|it| unwritten(&it)),
            sealed: next().and_then(|it| data_encoding::HEXLOWER.decode(it.as_bytes()).ok()).map(Into::into),
        }
    };
    Ok(db.rows(sql).await?.into_iter().map(record).collect())
}

/// Connections that there may be, against what the relays want: those that work, and one more, as while one is replaced by the next. Theirs
/// go by the name that this one has, which is that of the URL.
async fn connections(db: &Asked, replicas: i64) -> Result<Finding> {
    let sql = "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
        (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user),
        (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),
        (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> current_setting('application_name'))";
    let row = db.row(sql).await?;
    let number = |at: usize| row.get(at).and_then(|it| it.parse::<i64>().ok()).unwrap_or_default();
    let (server, role, database, others) = (number(0), number(1), number(2), number(3));
    let bound = |limit: i64| if limit < 0 { i64::MAX } else { limit };
    let room = (server - others).min(bound(role)).min(bound(database));
    let (relays, wanted) = (replicas.max(1) + 1, (replicas.max(1) + 1) * PER_REPLICA);
    let said = format!(
        "room for {room}; {relays} relays (one more than now, as during an upgrade) want up to {wanted}, {PER_REPLICA} each"
    );
    Ok(if room < wanted {
        let help = "raise max_connections of the server (or the role's or the database's CONNECTION LIMIT)";
        Finding::warning("connections", said, help)
    } else {
        Finding::good("connections", said)
    })
}
