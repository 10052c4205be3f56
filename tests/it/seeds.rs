//! The seeds' own receivers, run as they were written, accept what the relay sends for every event of the seeds.

use crate::support::{Relay, referee::Server, routes, seeds};

const SECRET: &str = "whsec_of_the_seeds_receiver";

/// Sends every event of the seeds through a relay that delivers to `url`, and waits until all are taken at the first attempt.
async fn all_taken_at_once(url: &str, scheme: &str, payload: &str, only: &str) {
    let fields =
        format!("kind: webhook, url: \"{url}\", payload: {payload}, signing: {{schemes: [{scheme}], secrets: [\"{SECRET}\"]}}");
    let relay = Relay::start(&routes().seeds().destination("seed", &fields)).await;
    let requests: Vec<_> = seeds::signed().into_iter().filter(|request| request.path.contains(only)).collect();
    assert!(!requests.is_empty());
    for request in &requests {
        relay.accepts(request).await;
    }
    for row in relay.settled("", requests.len()).await {
        assert_eq!((row["state"].as_str(), row["attempts"].as_u64()), (Some("delivered"), Some(1)), "{row}");
    }
}

#[tokio::test]
async fn there_are_ten_three_and_one() {
    let count = |kind: &str| seeds::bodies(kind).len();
    assert_eq!((count("interactor"), count("agent"), count("trigger")), (10, 3, 1));
    for body in ["interactor", "agent", "trigger"].into_iter().flat_map(seeds::bodies) {
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value.to_string().into_bytes(), body, "compact JSON");
    }
}

#[tokio::test]
async fn the_seeds_express_receiver_accepts_every_event() {
    let server = Server::start("seed_express.cjs", "INTERACTOR_WEBHOOK_SECRET", SECRET).await;
    let url = format!("http://127.0.0.1:{}/webhooks/interactor", server.port);
    all_taken_at_once(&url, "interactor", "envelope", "").await;
    all_taken_at_once(&url, "interactor", "original", "interactor").await;
    handled(
        &server,
        &[
            "notifyUserToReconnect",
            "notifyUserOfPendingApproval",
            "processCompletedWorkflow",
            "handleWorkflowFailure",
            "forwardMessageToClient",
        ],
    );
}

#[tokio::test]
async fn the_seeds_flask_receiver_accepts_every_event() {
    let server = Server::start("seed_flask.py", "INTERACTOR_WEBHOOK_SECRET", SECRET).await;
    let url = format!("http://127.0.0.1:{}/webhooks/interactor", server.port);
    all_taken_at_once(&url, "interactor", "envelope", "").await;
    all_taken_at_once(&url, "interactor", "original", "interactor").await;
    handled(
        &server,
        &[
            "notify_user_to_reconnect",
            "notify_user_of_pending_approval",
            "process_completed_workflow",
            "handle_workflow_failure",
            "forward_message_to_client",
        ],
    );
}

#[tokio::test]
async fn the_seeds_agent_receiver_accepts_every_event() {
    let server = Server::start("seed_agent.cjs", "WEBHOOK_SECRET", SECRET).await;
    let url = format!("http://127.0.0.1:{}/webhooks", server.port);
    all_taken_at_once(&url, "agent", "envelope", "").await;
    all_taken_at_once(&url, "agent", "original", "").await;
}

#[tokio::test]
async fn the_seeds_receivers_refuse_another_secret() {
    for (script, variable, path, scheme) in [
        ("seed_express.cjs", "INTERACTOR_WEBHOOK_SECRET", "/webhooks/interactor", "interactor"),
        ("seed_flask.py", "INTERACTOR_WEBHOOK_SECRET", "/webhooks/interactor", "interactor"),
        ("seed_agent.cjs", "WEBHOOK_SECRET", "/webhooks", "agent"),
    ] {
        let server = Server::start(script, variable, "whsec_another").await;
        let url = format!("http://127.0.0.1:{}{path}", server.port);
        let fields = format!(
            "kind: webhook, url: \"{url}\", answers: interactor, signing: {{schemes: [{scheme}], secrets: [\"{SECRET}\"]}}"
        );
        let relay = Relay::start(&routes().seeds().destination("seed", &fields)).await;
        relay.accepts(&seeds::signed()[0]).await;
        let row = relay.settled("", 1).await.remove(0);
        assert_eq!((row["state"].as_str(), row["error"].as_str()), (Some("dead"), Some("http_401")), "{script}: {row}");
    }
}

/// The receiver's own handlers were called, each with what the event holds.
fn handled(server: &Server, names: &[&str]) {
    let printed = server.printed();
    for name in names {
        assert!(printed.contains(&format!("called {name} ")), "{name} was not called:\n{printed}");
    }
    assert!(printed.contains("Google Calendar") && printed.contains("payment_declined"), "{printed}");
}
