//! `hookyard store`: works on stores that no relay uses: copies one into another.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::{Failure, output};
use crate::{
    clock::{Clock, rfc3339_s},
    config::{self, System},
    secret::Secret,
    store::{
        self,
        copy::{Copied, Error, Plan, Progress, copy},
    },
};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_required = true)]
pub(super) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// The configuration, for the store it names
    #[arg(long, env = "HOOKYARD_CONFIG", default_value = "routes.yaml", value_name = "FILE")]
    config: PathBuf,
    /// Print what came of it as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Copies a whole store into an empty one: from SQLite to PostgreSQL, or back
    ///
    /// Ids, cursors and what is sealed stay what they are. The source is only read; no relay may work on either. Broken off, it goes on
    /// where it stopped when it is begun again. The URLs may say ${NAME} and ${file:/path}, as in the configuration, so that no password
    /// stands in the list of processes.
    Copy(Copy),
}

#[derive(Debug, clap::Args)]
struct Copy {
    /// The store that is copied [default: store.url of the configuration]
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// The store that becomes the copy: a file that is not there yet, an empty database or schema
    #[arg(long, value_name = "URL")]
    to: String,
    /// Rows per second at most, to spare a database that others use
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    #[command(flatten)]
    common: Common,
}

/// Does what is asked.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    match args.what {
        Some(What::Copy(args)) => copies(args).await,
        None => Err(Failure::Usage("`hookyard store` wants to know what to do: see hookyard store --help".to_owned())),
    }
}

async fn copies(args: Copy) -> Result<(), Failure> {
    let read =
        |text: &str, name: &str| config::store_url_of(text, &System).map_err(|why| Failure::Usage(format!("{name}: {why}")));
    let from = match &args.from {
        Some(text) => read(text, "--from")?,
        None => configured(&args.common.config)?,
    };
    let to = read(&args.to, "--to")?;
    let plan = Plan { from: &from, to: &to, folder: Path::new(""), rate: args.rate };
    let mut shown = Shown { bar: None, quiet: args.common.json, table: "" };
    let copied = copy(&plan, &Clock::system(), &mut |progress| shown.tell(progress)).await;
    if let Some(bar) = &shown.bar {
        bar.finish_and_clear();
    }
    let copied = copied.map_err(failure)?;
    tell(&copied, &from, &to, args.common.json);
    Ok(())
}

fn configured(path: &Path) -> Result<Secret, Failure> {
    let unclear =
        || Failure::Bad(format!("{}: store.url cannot be made out: see `hookyard check`, or name --from", path.display()));
    config::store_url(&config::main_file(path), &System).ok_or_else(unclear)
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Store { .. } => Failure::Unreachable(error.to_string()),
        Error::Refused(_) | Error::Row { .. } => Failure::Bad(error.to_string()),
    }
}

/// What whoever waits sees: a bar on a terminal, else a line for each table.
struct Shown {
    bar: Option<ProgressBar>,
    quiet: bool,
    table: &'static str,
}

impl Shown {
    fn tell(&mut self, Progress { table, done, total }: Progress) {
        if self.quiet {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            if 0 < done {
                output::note(&format!("going on where an earlier run stopped: {done} of {total} rows are there"));
            }
            let style = ProgressStyle::with_template("{msg:12} {bar:40} {pos}/{len} {per_sec} {eta}");
            let bar = ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.reset_eta();
            bar
        });
        bar.set_position(done);
        if std::mem::replace(&mut self.table, table) != table {
            bar.set_message(table);
            if bar.is_hidden() {
                output::note(&format!("{done} of {total} rows are copied; now {table}"));
            }
        }
    }
}

fn tell(copied: &Copied, from: &Secret, to: &Secret, json: bool) {
    let (source, destination) = (store::shown(from), store::shown(to));
    if json {
        let tables: Map<String, Value> = copied.tables.iter().map(|(name, rows)| ((*name).to_owned(), (*rows).into())).collect();
        let data = json!({
            "from": source,
            "to": destination,
            "rows": copied.rows(),
            "tables": tables,
            "rows_before": copied.before,
            "already": copied.already,
            "finished_at": rfc3339_s(copied.finished_at),
        });
        return output::raw(&json!({"data": data}).to_string());
    }
    if copied.already {
        output::note(&format!("nothing was left to do: this copy was finished at {}", rfc3339_s(copied.finished_at)));
    }
    let rows: Vec<Value> = copied.tables.iter().map(|(name, rows)| json!({"table": name, "rows": rows})).collect();
    output::list(&rows, &["table", "rows"]);
    output::note(&match copied.already {
        false => format!("{} rows of {source} are in {destination}, counted on both sides", copied.rows()),
        // Relays may have worked on the copy since.
        true => format!("these are the {} rows of {source}; what is in {destination} now was not counted", copied.rows()),
    });
    output::note("before a relay starts on it: point store.url at it, and let no other go on with the former one");
    if let Some(key) = store::key_file(from, Path::new("")).filter(|file| file.exists()) {
        output::note(&format!(
            "what it keeps sealed opens under the key it was sealed under: security.encryption_key, or where none was named \
             \"${{file:{}}}\"",
            std::path::absolute(&key).unwrap_or(key).display()
        ));
    }
}
