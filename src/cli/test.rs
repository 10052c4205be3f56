//! `hookyard test`: runs `tests:` of routes.yaml, with nothing but the file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

use super::{Failure, output};
use crate::{
    config::{self, Loaded, System, decode::nearest, report},
    rehearsal::{Failed, Mark, Performed, Rehearsal, StandIns, Test, perform},
    store,
};

mod junit;
mod shown;

/// Runs the `tests:` of routes.yaml: no network, no store, a clock of their own.
///
/// Each test says which event comes in and what is expected of it: which rules match, which targets it goes to, what its deliveries are
/// then, how many are suppressed, and what the messages say. Events are planned, held, throttled, gathered and rendered as by the relay;
/// what would be sent now counts as `delivered`, what quiet hours hold as `held`. What waits is rendered as it would go out later.
///
/// A test without `now` runs at 2026-01-20T12:00:00Z, whatever day it is. Variables come from its `env`, then from the environment; what
/// is in neither, and what a file would have said that cannot be read, has a stand-in: no real secret is needed. `contacts_lookup` is not
/// asked: it is taken to find stand-in@contacts-lookup.invalid.
///
/// Exit status: 0 all pass, 1 one fails or the file is bad, 2 there is no test NAME.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Run this test only, by its whole name
    name: Option<String>,
    /// The file whose tests to run
    #[arg(long, env = "HOOKYARD_CONFIG", default_value = "routes.yaml", value_name = "FILE")]
    config: PathBuf,
    /// Also write the results as JUnit XML, for CI
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
}

/// Tests that run at once: each has a store of its own.
const AT_ONCE: usize = 8;

/// What came of one test.
struct Ran {
    performed: Performed,
    took: Duration,
}

/// What came of all.
struct Report {
    /// The file.
    loaded: Loaded,
    /// In its order.
    ran: Vec<Ran>,
    /// References that something stood in for.
    stand_ins: BTreeSet<String>,
    /// Whether somebody stood in for those whom a look-up service would have named.
    contact: bool,
}

/// Runs the tests and says what came of them.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let file = Scenery::of(&args.config, &BTreeMap::new()).map_err(|bad| bad_file(&bad))?;
    let indices = chosen(&file.tests, args.name.as_deref())?;
    if indices.is_empty() {
        output::note(&format!("warning: {} has no `tests`: nothing is tested", args.config.display()));
    }
    let mut sceneries = Sceneries { path: args.config.clone(), made: BTreeMap::from([(BTreeMap::new(), Ok(file.clone()))]) };
    let (mut ran, mut started) = (BTreeMap::new(), JoinSet::new());
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    for index in indices {
        let Some(test) = file.tests.get(index) else { continue };
        match sceneries.of(test) {
            Ok(scenery) => _ = started.spawn(one(scenery, index, turns.clone())),
            Err(reason) => _ = ran.insert(index, Ran { performed: never(test, reason), took: Duration::ZERO }),
        }
    }
    while let Some(ended) = started.join_next().await {
        let (index, one) = ended.map_err(|error| Failure::Bad(format!("a test broke off: {error}")))?;
        ran.insert(index, one.map_err(|error| Failure::Bad(format!("a test has no store to run with: {error}")))?);
    }
    let all = sceneries.made.values().flatten();
    let stand_ins = all.clone().flat_map(|scenery| scenery.stand_ins.iter().cloned()).collect();
    let contact = all.clone().any(|scenery| scenery.rehearsal.asks_nobody);
    let report = Report { loaded: file.loaded.clone(), ran: ran.into_values().collect(), stand_ins, contact };
    tell(&args, &report)?;
    if report.ran.iter().all(|it| it.performed.failed.is_empty()) { Ok(()) } else { Err(Failure::BadAndSaid) }
}

/// Runs the test at `index` in its turn.
async fn one(scenery: Arc<Scenery>, index: usize, turns: Arc<Semaphore>) -> (usize, store::Result<Ran>) {
    let _turn = turns.acquire().await;
    let began = Instant::now();
    let performed = match scenery.tests.get(index) {
        Some(test) => perform(&scenery.rehearsal, test).await,
        // The file changed between two readings of it.
        None => Err(store::Error::Backend("the file is another one now".into())),
    };
    (index, performed.map(|performed| Ran { performed, took: began.elapsed() }))
}

/// A test that does not run: in its environment the file is bad.
fn never(test: &Test, reason: String) -> Performed {
    let items = vec![(Mark::Expected, "a good file".to_owned()), (Mark::Got, reason)];
    let failed = Failed { what: "env".to_owned(), place: test.place, items, beside: Vec::new() };
    Performed { name: test.name.clone(), place: test.place, failed: vec![failed], played: Vec::new() }
}

fn tell(args: &Args, report: &Report) -> Result<(), Failure> {
    if let Some(path) = &args.junit {
        let written = fs::write(path, junit::xml(report));
        written.map_err(|error| Failure::Bad(format!("{} cannot be written: {error}", path.display())))?;
    }
    if args.json {
        output::raw(&format!("{:#}", shown::json(report)));
    } else if !report.ran.is_empty() {
        output::raw(&shown::text(report, colours(&io::stdout())));
    }
    shown::notes(report).iter().for_each(|note| output::note(note));
    Ok(())
}

fn bad_file(loaded: &Loaded) -> Failure {
    output::block(&report::text(loaded, colours(&io::stderr())));
    Failure::BadAndSaid
}

/// Whether `to` is a terminal that wants colours.
fn colours(to: &impl IsTerminal) -> bool {
    to.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Which of `tests` are to run.
fn chosen(tests: &[Test], name: Option<&str>) -> Result<Vec<usize>, Failure> {
    let Some(name) = name else { return Ok((0..tests.len()).collect()) };
    if let Some(index) = tests.iter().position(|test| test.name == name) {
        return Ok(vec![index]);
    }
    let near = nearest(name, tests.iter().map(|test| test.name.as_str()));
    let meant = near.map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
    Err(Failure::Usage(format!("there is no test \"{name}\"{meant}")))
}

/// The file in one environment.
struct Scenery {
    loaded: Loaded,
    rehearsal: Rehearsal,
    tests: Vec<Test>,
    stand_ins: Vec<String>,
}

impl Scenery {
    /// The file at `path` where `env` comes before the environment of the process; as an error, the file that is bad there.
    fn of(path: &Path, env: &BTreeMap<String, String>) -> Result<Arc<Self>, Box<Loaded>> {
        let env = StandIns::new(env.clone(), &System);
        let mut loaded = config::load(path, &env);
        let Some(mut config) = loaded.config.take() else { return Err(Box::new(loaded)) };
        let tests = std::mem::take(&mut config.tests);
        Ok(Arc::new(Self { loaded, rehearsal: Rehearsal::new(&config), tests, stand_ins: env.used() }))
    }
}

/// The file in the environments of its tests. Most tests have the same.
struct Sceneries {
    path: PathBuf,
    made: BTreeMap<BTreeMap<String, String>, Result<Arc<Scenery>, String>>,
}

impl Sceneries {
    /// The scenery of `test`. The error says why there is none.
    fn of(&mut self, test: &Test) -> Result<Arc<Scenery>, String> {
        let path = &self.path;
        let make = || Scenery::of(path, &test.env).map_err(|bad| report::headline(&bad).unwrap_or_default());
        self.made.entry(test.env.clone()).or_insert_with(make).clone()
    }
}
