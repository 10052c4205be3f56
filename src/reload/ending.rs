//! Sources that were asked (`kind: poll`) and are not by another file: those whose senders come by themselves now are asked a last time,
//! by the file that said how. The store remembers that until it is done ([`Mark`]), so that neither a restart in the place of a reload nor
//! one in the middle loses what happened just before.

use std::time::Duration;

use tracing::{info, warn};

use super::last_good;
use crate::{
    announce::Notice,
    app::Handles,
    clock::later,
    config::{Config, Loaded},
    envelope::Name,
    ingest::{
        Source,
        poll::{self, Mark, Prepared},
    },
    store,
};

/// How long a mark is kept whose file cannot be read: until then a restart with what it names may mend that.
const UNREAD_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Notes which sources `after` does not ask that `before` did. Before anything else is kept as the last good file, and before `after` is
/// gone by.
pub(super) async fn note(handles: &Handles, before: &Config, after: &Config) {
    let ended: Vec<&Name> = asked(before).filter(|name| !asked(after).any(|other| other == *name)).collect();
    if ended.is_empty() {
        return;
    }
    let noted = async {
        let Some(file) = last_good::sealed(&*handles.store).await? else { return Ok(()) };
        let mark = Mark { since: handles.clock.now(), file };
        for name in ended {
            mark.keep(&*handles.store, name).await?;
        }
        Ok::<_, store::Error>(())
    };
    if let Err(error) = noted.await {
        warn!(
            "the store does not take which sources are no longer polled: they are polled a last time only if the relay goes on: {error}"
        );
    }
}

/// At the start by the file `loaded`: what [`note`] would have noted had that file come by a reload, and [`go_on`].
pub(crate) async fn at_start(handles: &Handles, loaded: &Loaded) {
    let config = handles.config();
    // The last good file may be that of another replica, which polls by it: nothing has ended.
    if loaded.config.is_some() && !handles.generations.yields() {
        match last_good::of_store(loaded, &config.store.url, &*handles.store).await {
            Some(before) => note(handles, &before, &config).await,
            None => unreadable(handles, &config).await,
        }
    }
    go_on(handles, loaded).await;
}

/// Has those sources asked a last time that are marked, and whose senders come by themselves now.
pub(super) async fn go_on(handles: &Handles, loaded: &Loaded) {
    let marks = match Mark::all(&*handles.store).await {
        Ok(marks) => marks,
        Err(error) => return warn!("which sources are to be polled a last time is not known: {error}"),
    };
    let config = handles.config();
    for (name, mark) in marks {
        // One that is in no file may come back.
        let Some(source) = config.sources.iter().find(|source| source.name == name) else { continue };
        if source.poll().is_some() {
            forget(handles, &name).await;
        } else if !handles.pollers.is_ending(&name) {
            resume(handles, loaded, &name, &mark).await;
        }
    }
}

async fn resume(handles: &Handles, loaded: &Loaded, name: &Name, mark: &Mark) {
    let before = last_good::reopened(&mark.file, loaded, &handles.config().store.url);
    let source =
        before.as_ref().and_then(|before| before.sources.iter().find(|source| source.name == *name && source.poll().is_some()));
    let (Some(before), Some(source)) = (&before, source) else {
        missing(handles, name, "the file by which it was polled cannot be read any more (is a variable gone that it names?)");
        if later(mark.since, UNREAD_MAX) < handles.clock.now() {
            forget(handles, name).await;
        }
        return;
    };
    match Prepared::new(std::slice::from_ref::<Source>(source), &before.security.allow_targets) {
        Ok(prepared) => {
            info!(source.name = %name, "source {name} is polled a last time: its sender comes by itself now");
            handles.pollers.end(prepared);
        }
        Err(error) => missing(handles, name, &error),
    }
}

/// Of a last good file that cannot be read nobody knows what it polled; but of what was polled there is a cursor.
async fn unreadable(handles: &Handles, config: &Config) {
    if !matches!(last_good::sealed(&*handles.store).await, Ok(Some(_))) {
        return;
    }
    for source in config.sources.iter().filter(|source| source.poll().is_none()) {
        if matches!(poll::was_asked(&*handles.store, &source.name).await, Ok(true)) {
            let why = "the file before this one, which may have polled it, cannot be read (is a variable gone that it names?)";
            missing(handles, &source.name, why);
        }
    }
}

/// Says that a source is not asked a last time.
fn missing(handles: &Handles, name: &Name, why: &str) {
    warn!(source.name = %name, "source {name} is not polled a last time, so what happened just before its sender came by itself may be missing: {why}");
    let reason =
        format!("it is not polled a last time, and what happened just before its sender came by itself may be missing: {why}");
    handles.announcer.tell(Notice::Unanswered { source: name.clone(), failures: 1, reason });
}

async fn forget(handles: &Handles, name: &Name) {
    if let Err(error) = Mark::remove(&*handles.store, name).await {
        warn!(source.name = %name, "the store does not forget that {name} is to be polled a last time: {error}");
    }
}

fn asked(config: &Config) -> impl Iterator<Item = &Name> {
    config.sources.iter().filter(|source| source.poll().is_some()).map(|source| &source.name)
}
