//! Replicas that share a store: what people change on one of them is read again by the others a little later, so that it holds on all.
//! Records (tokens, subscriptions, lanes, jobs) and mutes come in; what the rooms remember of them is put right. On a store of one process there is nothing to do.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{app::Handles, store};

/// How often is looked for what others have changed. By the machine's clock: theirs is none of ours.
const EVERY: Duration = Duration::from_millis(500);

/// Runs until `stop`, where others share the store.
pub(crate) async fn follow(handles: Handles, stop: CancellationToken) {
    let mut failing = false;
    while handles.store.is_shared() && stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        match round(&handles).await {
            Ok(()) if std::mem::take(&mut failing) => info!("what other replicas change is heard of again"),
            Ok(()) => {}
            Err(store::Error::Closed) => return,
            Err(error) if !std::mem::replace(&mut failing, true) => warn!(%error, "what other replicas change is not heard of"),
            Err(_) => {}
        }
    }
}

/// Looks everywhere, whatever fails somewhere: a token that was taken away must not live on because a list of jobs cannot be read.
async fn round(handles: &Handles) -> store::Result<()> {
    let looked = [
        handles.tokens.refresh().await,
        handles.subscriptions.refresh().await,
        handles.deliver.mutes().refresh().await,
        handles.deliver.follow_lanes().await,
        handles.jobs.refresh().await,
        handles.pollers.follow().await,
    ];
    looked.into_iter().collect()
}
