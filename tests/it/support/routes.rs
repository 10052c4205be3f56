//! Writes `routes.yaml` for a test.

use super::{Receiver, signed};

/// Secret that destinations sign with, unless a test says otherwise.
pub(crate) const OUT: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// A retry policy that does not keep a test waiting.
pub(crate) const FAST: &str = "retry: {initial: 50ms, factor: 1, max: 50ms, jitter: none, max_attempts: 3}";

/// A `routes.yaml` in the making. Without a rule of its own, every event goes to every destination.
#[derive(Debug, Clone)]
pub(crate) struct Routes {
    listen: (String, String),
    server: Vec<String>,
    store: Vec<String>,
    security: String,
    sources: Vec<(String, String)>,
    destinations: Vec<(String, String)>,
    rules: Vec<String>,
    sections: Vec<String>,
}

/// A relay on free ports that may deliver to 127.0.0.1, with its store beside the file.
pub(crate) fn routes() -> Routes {
    Routes {
        listen: ("127.0.0.1:0".into(), "127.0.0.1:0".into()),
        server: Vec::new(),
        store: vec!["url: \"sqlite://hookyard.db\"".into()],
        security: "allow_targets: [127.0.0.1]".into(),
        sources: Vec::new(),
        destinations: Vec::new(),
        rules: Vec::new(),
        sections: Vec::new(),
    }
}

impl Routes {
    /// Adds `name: {fields}` under `sources`.
    pub(crate) fn source(mut self, name: &str, fields: &str) -> Self {
        self.sources.push((name.into(), fields.into()));
        self
    }

    /// Source `interactor`, with the secret of [`signed::interactor`].
    pub(crate) fn interactor(self) -> Self {
        let fields = format!("kind: interactor, path: /webhooks/interactor, secrets: [\"{}\"]", signed::INTERACTOR);
        self.source("interactor", &fields)
    }

    /// Source `agents`, with the secret of [`signed::agent`].
    pub(crate) fn agent(self) -> Self {
        self.source("agents", &format!("kind: agent, path: /webhooks/agent, secrets: [\"{}\"]", signed::AGENT))
    }

    /// Source `connectors` for [`signed::trigger`], with the case of the seed's Gmail trigger.
    pub(crate) fn trigger(self) -> Self {
        let map = "type: connector.gmail.email_sent, id: $.message.id, time: $.message.sent_at, namespace: $.account, subject: $.message.thread_id";
        let cases = format!("cases: [{{when: [{{path: $.connector, eq: gmail}}], map: {{{map}}}}}]");
        let header = format!("header: {{name: X-Forwarding-Key, values: [\"{}\"]}}", signed::FORWARDING);
        self.source("connectors", &format!("kind: trigger, path: /triggers/connectors, {header}, {cases}"))
    }

    /// Source `standard` for [`signed::standard`].
    pub(crate) fn standard(self) -> Self {
        self.source("standard", &format!("kind: standard, path: /webhooks/standard, secrets: [\"{}\"]", signed::STANDARD))
    }

    /// The three sources of the seeds.
    pub(crate) fn seeds(self) -> Self {
        self.interactor().agent().trigger()
    }

    /// Adds `name: {fields}` under `destinations`.
    pub(crate) fn destination(mut self, name: &str, fields: &str) -> Self {
        self.destinations.push((name.into(), fields.into()));
        self
    }

    /// A webhook destination that signs as Standard Webhooks says and retries fast.
    pub(crate) fn webhook(self, name: &str, to: &Receiver) -> Self {
        self.webhook_with(name, to, FAST)
    }

    /// The same with `fields` in place of the fast policy.
    pub(crate) fn webhook_with(self, name: &str, to: &Receiver, fields: &str) -> Self {
        let signing = if fields.contains("signing:") { String::new() } else { format!(", signing: {{secrets: [\"{OUT}\"]}}") };
        self.destination(name, &format!("kind: webhook, url: \"{}\", {fields}{signing}", to.url()))
    }

    /// Adds `{fields}` under `rules`.
    pub(crate) fn rule(mut self, fields: &str) -> Self {
        self.rules.push(fields.into());
        self
    }

    /// Adds a line under `server`.
    pub(crate) fn server(mut self, line: &str) -> Self {
        self.server.push(line.into());
        self
    }

    /// Adds a line under `store`.
    pub(crate) fn store(mut self, line: &str) -> Self {
        self.store.push(line.into());
        self
    }

    /// Puts the store elsewhere.
    pub(crate) fn store_at(mut self, url: &str) -> Self {
        self.store[0] = format!("url: \"{url}\"");
        self
    }

    /// Seals with this key.
    pub(crate) fn sealed_under(mut self, key: &str) -> Self {
        if !self.security.contains("encryption_key:") {
            self.security += &format!(", encryption_key: \"{key}\"");
        }
        self
    }

    /// Replaces what stands under `security`.
    pub(crate) fn security(self, fields: &str) -> Self {
        Self { security: fields.into(), ..self }
    }

    /// Adds a section of its own.
    pub(crate) fn section(mut self, text: &str) -> Self {
        self.sections.push(text.into());
        self
    }

    /// Listens on these addresses: to come back where it was.
    pub(crate) fn on(mut self, public: &str, admin: &str) -> Self {
        self.listen = (public.into(), admin.into());
        self
    }

    /// The file.
    pub(crate) fn text(&self) -> String {
        let lines = |lines: &[String]| lines.iter().map(|line| format!("  {line}\n")).collect::<String>();
        let named = |entries: &[(String, String)]| {
            entries.iter().map(|(name, fields)| format!("  {name}: {{{fields}}}\n")).collect::<String>()
        };
        let mut text = format!("version: 1\nserver:\n  listen: {}\n  admin_listen: {}\n", self.listen.0, self.listen.1);
        text += &lines(&self.server);
        text += &format!("store:\n{}", lines(&self.store));
        text += &format!("security: {{{}}}\n", self.security);
        text += &format!("sources:\n{}", named(&self.sources));
        if !self.destinations.is_empty() {
            text += &format!("destinations:\n{}rules:\n{}", named(&self.destinations), self.rule_lines());
        }
        text + &self.sections.iter().map(|section| format!("{section}\n")).collect::<String>()
    }

    fn rule_lines(&self) -> String {
        if !self.rules.is_empty() {
            return self.rules.iter().map(|rule| format!("  - {{{rule}}}\n")).collect();
        }
        let names: Vec<_> = self.destinations.iter().map(|(name, _)| name.as_str()).collect();
        format!("  - {{name: everything, match: {{type: \"**\"}}, to: [{}]}}\n", names.join(", "))
    }
}
