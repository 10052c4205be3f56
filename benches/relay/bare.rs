//! R0, what the machine can do at all: an axum handler that reads the body and answers 200.

use axum::{Router, http::StatusCode, routing::post, serve::ListenerExt};
use bytes::Bytes;
use tokio::net::TcpListener;

use crate::{Outcome, process, requests::PATH};

/// Serves until the process that started this one ends.
pub(crate) async fn serve() -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    process::announce(listener.local_addr()?)?;
    let listener = listener.tap_io(|stream| {
        // It is only slower without.
        let _ = stream.set_nodelay(true);
    });
    let router = Router::new().route(PATH, post(async |_body: Bytes| StatusCode::OK));
    axum::serve(listener, router).await?;
    Ok(())
}
