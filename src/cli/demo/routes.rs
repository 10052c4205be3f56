//! The demo's `routes.yaml`.

use std::net::SocketAddr;

use serde_json::Value;

use super::make_secret;
use crate::{
    cli::{Failure, send::random_id},
    secret::Secret,
};

pub(super) const INTERACTOR: &str = "/webhooks/interactor";
pub(super) const AGENTS: &str = "/webhooks/agent";
pub(super) const GMAIL: &str = "/triggers/gmail";
pub(super) const GMAIL_HEADER: &str = "X-Forwarding-Key";

/// What people are told of by mail.
pub(super) const MAILED: [&str; 4] =
    ["credential.expired", "credential.revoked", "workflow.instance.failed", "workflow.instance.halted"];

/// What the demo makes up.
pub(super) struct Secrets {
    pub(super) interactor: Secret,
    pub(super) agents: Secret,
    pub(super) gmail: Secret,
    pub(super) crm: Secret,
    pub(super) n8n: Secret,
    pub(super) token: Secret,
}

impl Secrets {
    /// Draws them at random.
    pub(super) fn make() -> Result<Self, Failure> {
        Ok(Self {
            interactor: make_secret()?,
            agents: make_secret()?,
            gmail: make_secret()?,
            crm: make_secret()?,
            n8n: make_secret()?,
            token: Secret::new(format!("{}{}", random_id("hy_")?, random_id("")?)),
        })
    }
}

/// The file: three sources, three receivers and a mail server on this machine, a rule that sends everything to all receivers, and one
/// that mails people what they have to mend.
pub(super) fn text(store: &str, secrets: &Secrets, [crm, n8n, slack, mail]: [SocketAddr; 4]) -> String {
    let (mail_port, mailed) = (mail.port(), MAILED.join(", "));
    // JSON strings are YAML strings; a dollar sign would begin a reference.
    let quoted = |text: &str| Value::from(text.replace('$', "$$")).to_string();
    let (store, interactor) = (quoted(&format!("sqlite://{store}")), quoted(secrets.interactor.reveal()));
    let (agents, gmail) = (quoted(secrets.agents.reveal()), quoted(secrets.gmail.reveal()));
    let (crm_secret, n8n_secret) = (quoted(secrets.crm.reveal()), quoted(secrets.n8n.reveal()));
    format!(
        r#"version: 1
server: {{listen: "127.0.0.1:0", admin_listen: "127.0.0.1:0"}}
store: {{url: {store}}}
security: {{allow_targets: ["127.0.0.1"]}}
sources:
  interactor:
    kind: interactor
    path: {INTERACTOR}
    secrets: [{interactor}]
  agents:
    kind: agent
    path: {AGENTS}
    secrets: [{agents}]
  gmail:
    kind: trigger
    path: {GMAIL}
    header: {{name: {GMAIL_HEADER}, values: [{gmail}]}}
    map:
      type: connector.gmail.email_sent
      id: $.message.id
      time: $.message.sent_at
      namespace: $.account
      subject: $.message.thread_id
destinations:
  crm:
    kind: webhook
    url: "http://{crm}/hooks/relay"
    signing: {{schemes: [standard, interactor], secrets: [{crm_secret}]}}
  n8n:
    kind: n8n
    url: "http://{n8n}/webhook/demo"
    signing: {{schemes: [standard], secrets: [{n8n_secret}]}}
  slack:
    kind: slack
    url: "http://{slack}/services/demo"
    rate_limit: 100/s   # the real one takes a message a second, which is the default
  mail:
    kind: email
    smtp: {{host: 127.0.0.1, port: {mail_port}, tls: none}}
    from: Hookyard demo <demo@example.com>
    to: contact
contacts:
  - {{namespace: "*", email: [you@example.com]}}
rules:
  - name: everything
    match: {{type: "**"}}
    to: [crm, n8n, slack]
  - name: what-people-mend
    match: {{type: [{mailed}]}}
    to: [mail]
"#
    )
}
