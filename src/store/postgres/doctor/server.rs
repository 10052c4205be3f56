//! What the server itself does: what is on disk when it says so, who follows it, and what ails it.

use super::{super::schema, Asked};
use crate::store::{
    Result,
    doctor::{Finding, size},
};

/// Whether the database can hold any text: what others send is kept as they sent it.
pub(super) async fn encoding(db: &Asked) -> Result<Finding> {
    let name = db.text("SHOW server_encoding").await?;
    Ok(if name == schema::ENCODING {
        Finding::good("encoding", name)
    } else {
        let said = format!("{name}, in which much of what is sent cannot be written: no relay starts on it");
        Finding::bad("encoding", said, "make another database: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0")
    })
}

/// Whether what it says is on disk is on disk.
pub(super) async fn on_disk(db: &Asked) -> Result<Finding> {
    let sql = "SELECT current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit')";
    let row = db.row(sql).await?;
    let [fsync, pages, commit] = row.as_slice() else { return Ok(Finding::good("commits", "not looked at")) };
    // See `connect::SETTINGS`.
    let commit = match commit.as_str() {
        "on" | "remote_apply" => format!("synchronous_commit {commit}"),
        other => format!("synchronous_commit {other}, which the relay sets to on for itself"),
    };
    let said = format!("fsync {fsync}, full_page_writes {pages}, {commit}");
    Ok(match (fsync.as_str(), pages.as_str()) {
        ("on", "on") => Finding::good("commits", said),
        ("on", _) => {
            let said = format!("{said}: a loss of power may leave torn pages, which nothing repairs");
            Finding::warning("commits", said, "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf()")
        }
        _ => {
            let said = format!("{said}: a loss of power loses what was acknowledged, and may damage everything");
            Finding::bad("commits", said, "ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf()")
        }
    })
}

/// Who follows the server, and whether commits wait for them.
pub(super) async fn standbys(db: &Asked) -> Result<Vec<Finding>> {
    let names = db.text("SELECT current_setting('synchronous_standby_names')").await?;
    let sql = "SELECT coalesce(application_name, '?'), coalesce(sync_state, '?'), coalesce(state, '?'),
        coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn), 0)::bigint FROM pg_stat_replication ORDER BY 1";
    let follow = db.rows(sql).await?.into_iter().map(|row| {
        let mut cells = row.into_iter().map(Option::unwrap_or_default);
        let mut next = || cells.next().unwrap_or_default();
        Follows { name: next(), sync: next(), state: next(), behind: next().parse().unwrap_or_default() }
    });
    Ok(vec![followed(&names, &follow.collect::<Vec<_>>())])
}

/// A standby that is connected, as `pg_stat_replication` shows it.
#[derive(Debug)]
struct Follows {
    name: String,
    /// `sync`, `quorum`, `potential` or `async`; `?` where the role may not see it.
    sync: String,
    state: String,
    /// In bytes.
    behind: u64,
}

/// What it comes to that commits wait for `names` and these follow.
fn followed(names: &str, all: &[Follows]) -> Finding {
    const CHECK: &str = "standbys";
    let of = |states: &[&str]| all.iter().filter(|it| states.contains(&it.sync.as_str())).count();
    let list: Vec<String> = all.iter().map(|it| format!("{} ({}, {} behind)", it.name, it.sync, size(it.behind))).collect();
    let list = list.join(", ");
    // One that still catches up takes nobody's place.
    let ready = all.iter().filter(|it| it.sync == "potential" && it.state == "streaming").count();
    let (wanted, there) = (waited_for(names), of(&["sync", "quorum"]));
    if !all.is_empty() && of(&["?"]) == all.len() {
        let said = format!("{} follow; what they are this role may not see", all.len());
        Finding::warning(CHECK, said, "GRANT pg_read_all_stats TO the role of store.url")
    } else if names.is_empty() && all.is_empty() {
        Finding::warning(
            CHECK,
            "no standby follows this server: what its disk loses is lost, and while it is away nothing is taken in",
            "give it a standby and name it in synchronous_standby_names: see deploy/postgresql.md",
        )
    } else if names.is_empty() {
        Finding::warning(
            CHECK,
            format!("asynchronous: {list}. A FAILOVER MAY LOSE EVENTS THAT WERE ACKNOWLEDGED"),
            "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (<their names>)'; SELECT pg_reload_conf()",
        )
    } else if there < wanted {
        let said = match there {
            0 => format!("synchronous_standby_names is {names}, and none of them follows: every commit waits until {wanted} do"),
            _ => format!(
                "synchronous_standby_names is {names}, and {there} of the {wanted} that commits wait for follow: every commit waits: {list}"
            ),
        };
        Finding::bad(CHECK, said, "bring one back, or set synchronous_standby_names to those that are there")
    } else {
        let spare = match there - wanted + ready {
            0 => "; there is none to spare: were one of those gone, commits would wait until it is back",
            _ => "",
        };
        Finding::good(CHECK, format!("synchronous: a failover loses nothing that was acknowledged: {list}{spare}"))
    }
}

/// For how many standbys `names` (`FIRST 2 (a, b)`, `ANY 1 (*)`, `2 (a, b)`, `a, b`) lets a commit wait.
fn waited_for(names: &str) -> usize {
    let names = names.trim();
    let word = names.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    let method = ["first", "any"].contains(&word.to_ascii_lowercase().as_str());
    let behind = if method { names.get(word.len()..).unwrap_or_default() } else { names };
    let number = behind.split_once('(').map(|(number, _)| number.trim().parse());
    // A list of names without a number: the first of them that is there.
    number.and_then(std::result::Result::ok).unwrap_or(1)
}

/// Transactions that began before this are too long, in s.
const LONG: i64 = 3600;
/// Locks that are waited for longer than this, in s.
const WAITED: i64 = 30;
/// Ages of transaction ids at which to look, and at which the server will soon take nothing in.
const OLD: i64 = 1_000_000_000;
const TOO_OLD: i64 = 1_800_000_000;
/// What is kept for a standby that does not read it, in bytes.
const KEPT: i64 = 1024 * 1024 * 1024;

/// Whatever else ails.
pub(super) async fn ailments(db: &Asked) -> Result<Vec<Finding>> {
    Ok(vec![transactions(db).await?, locks(db).await?, ages(db).await?, vacuum(db).await?, slots(db).await?])
}

async fn transactions(db: &Asked) -> Result<Finding> {
    let sql = "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::bigint FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let longest = db.number(sql).await?;
    let prepared = "SELECT count(*) FROM pg_prepared_xacts WHERE prepared < now() - interval '1 hour'";
    let prepared = db.number(prepared).await?;
    let help = "end it: SELECT pg_terminate_backend(<pid>) of pg_stat_activity, ROLLBACK PREPARED of pg_prepared_xacts";
    Ok(if prepared != 0 {
        let said = format!("{prepared} prepared transactions wait for more than an hour: nothing behind them is tidied up");
        Finding::warning("transactions", said, help)
    } else if LONG < longest {
        let said = format!("one has been open for {longest} s: nothing that was removed since is tidied up");
        Finding::warning("transactions", said, help)
    } else {
        Finding::good("transactions", format!("the longest has been open for {longest} s"))
    })
}

async fn locks(db: &Asked) -> Result<Finding> {
    let sql = format!(
        "SELECT count(*), coalesce(max(extract(epoch FROM clock_timestamp() - query_start)), 0)::bigint,
            coalesce(string_agg(DISTINCT (SELECT string_agg(b::text, ' ') FROM unnest(pg_blocking_pids(pid)) AS b), ' '), '')
        FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
            AND query_start < clock_timestamp() - interval '{WAITED} s'"
    );
    let row = db.row(&sql).await?;
    let cell = |at: usize| row.get(at).map_or("", String::as_str);
    Ok(match cell(0) {
        "0" | "" => Finding::good("locks", format!("nobody has waited for one for {WAITED} s")),
        many => {
            let said = format!("{many} sessions wait for locks, one for {} s, that these processes hold: {}", cell(1), cell(2));
            Finding::warning("locks", said, "SELECT * FROM pg_stat_activity WHERE pid = …; pg_terminate_backend(…) ends one")
        }
    })
}

async fn ages(db: &Asked) -> Result<Finding> {
    let age = db.number("SELECT max(age(datfrozenxid)) FROM pg_database").await?;
    let said = format!("the oldest transaction id is {} million old; at 2,147 the server takes nothing more in", age / 1_000_000);
    let help = "VACUUM (FREEZE) the databases, and find out what keeps autovacuum from it (long transactions, slots)";
    Ok(match age {
        TOO_OLD.. => Finding::bad("age", said, help),
        OLD.. => Finding::warning("age", said, help),
        _ => Finding::good("age", said),
    })
}

async fn vacuum(db: &Asked) -> Result<Finding> {
    let sql = "SELECT coalesce(string_agg(relname, ', '), '') FROM pg_stat_user_tables
        WHERE schemaname = current_schema() AND 1000000 < n_dead_tup AND n_live_tup < n_dead_tup";
    let bloated = db.text(sql).await?;
    let off = db.text("SELECT current_setting('autovacuum')").await? != "on";
    Ok(if off {
        Finding::bad("vacuum", "autovacuum is off: tables only grow", "ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf()")
    } else if bloated.is_empty() {
        Finding::good("vacuum", "autovacuum keeps up")
    } else {
        let said = format!("more dead rows than live ones in: {bloated}");
        Finding::warning("vacuum", said, "let autovacuum do more (autovacuum_vacuum_cost_limit), or VACUUM them by hand")
    })
}

async fn slots(db: &Asked) -> Result<Finding> {
    let sql = format!(
        "SELECT coalesce(string_agg(slot_name, ', '), ''), coalesce(max(kept), 0) FROM (
            SELECT slot_name, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint AS kept FROM pg_replication_slots WHERE NOT active
        ) AS s WHERE {KEPT} < kept"
    );
    let row = db.row(&sql).await?;
    let cell = |at: usize| row.get(at).cloned().unwrap_or_default();
    Ok(if cell(0).is_empty() {
        Finding::good("slots", "none keeps the log from being removed")
    } else {
        let said = format!(
            "nobody reads {}, for which {} of the log are kept, and more",
            cell(0),
            size(cell(1).parse().unwrap_or_default())
        );
        Finding::warning("slots", said, "bring the standby back, or SELECT pg_drop_replication_slot('…'); else the disk fills up")
    })
}

/// Partitions that catch what has none of its own.
pub(super) async fn partitions(db: &Asked) -> Result<Option<Finding>> {
    let sql = "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE c.relnamespace = current_schema()::regnamespace AND pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT' ORDER BY 1";
    let defaults: Vec<String> = db.rows(sql).await?.into_iter().flatten().flatten().collect();
    if defaults.is_empty() {
        return Ok(None);
    }
    let all = db.number("SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'").await?;
    let mut held = Vec::new();
    for name in defaults {
        if db.is(&format!("SELECT EXISTS (SELECT 1 FROM \"{name}\")")).await? {
            held.push(name);
        }
    }
    Ok(Some(Finding::good(
        "partitions",
        if held.is_empty() {
            format!("{all}")
        } else {
            format!("{all}; outside of their ranges rows lie in {}", held.join(", "))
        },
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(names: &str, all: &[(&str, &str, &str)]) -> (bool, bool, String) {
        let follows = |&(name, sync, state): &(&str, &str, &str)| Follows {
            name: name.into(),
            sync: sync.into(),
            state: state.into(),
            behind: 0,
        };
        let found = followed(names, &all.iter().map(follows).collect::<Vec<_>>());
        let text = format!("{found:?}");
        (text.contains("synchronous: a failover loses nothing"), text.contains("none to spare"), text)
    }

    #[test]
    fn how_many_are_waited_for_is_read_as_the_server_reads_it() {
        for (names, n) in [
            ("db2", 1),
            ("*", 1),
            ("db2, db3", 1),
            ("FIRST 2 (db2, db3)", 2),
            ("any 2(db2,db3,db4)", 2),
            ("  Any  1  ( * )", 1),
            ("2 (db2, \"db 3\")", 2),
            ("first, any", 1),
            ("\"2 (\"", 1),
        ] {
            assert_eq!(waited_for(names), n, "{names}");
        }
    }

    #[test]
    fn commits_that_wait_for_more_than_follow_are_bad() {
        let (db2, db3) = (("db2", "quorum", "streaming"), ("db3", "quorum", "streaming"));
        for (names, all, good, bare) in [
            ("ANY 2 (db2, db3)", &[db2][..], false, false),
            ("FIRST 2 (db2, db3)", &[("db2", "sync", "streaming")][..], false, false),
            ("FIRST 2 (db2, db3)", &[("db2", "sync", "streaming"), ("db3", "potential", "catchup")][..], false, false),
            ("ANY 2 (db2, db3)", &[db2, db3][..], true, true),
            ("ANY 1 (db2, db3)", &[db2, db3][..], true, false),
            ("ANY 1 (db2, db3)", &[db2][..], true, true),
            ("db2, db3", &[("db2", "sync", "streaming"), ("db3", "potential", "streaming")][..], true, false),
            ("db2, db3", &[("db2", "sync", "streaming"), ("db3", "potential", "catchup")][..], true, true),
            ("db2", &[("db9", "async", "streaming")][..], false, false),
        ] {
            let (is, none, text) = said(names, all);
            assert_eq!((is, none), (good, bare), "{names} {all:?}: {text}");
            assert!(is || text.contains("every commit waits"), "{text}");
        }
    }
}
