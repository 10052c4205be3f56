//! What the relay takes up at its start only: its listeners, its store, the key that store is sealed under.

use super::{
    Config, Loaded, Problem, Severity,
    decode::Context,
    tree::{Node, Place},
    yaml,
};
use crate::secret::Secret;

/// Refuses `loaded` where it is good and yet cannot take the place of `running` without a restart: each such key is a problem.
pub fn needs_restart(running: &Config, loaded: &mut Loaded) {
    let Some(config) = &loaded.config else { return };
    let mut problems = Vec::new();
    let mut note = |section: &str, key: &str, is: Option<&str>| {
        let is = is.map(|is| format!(": it is {is}")).unwrap_or_default();
        problems.push((section.to_owned(), key.to_owned(), format!("`{section}.{key}` cannot change while the relay runs{is}")));
    };
    if running.server.listen != config.server.listen {
        note("server", "listen", Some(&running.server.listen));
    }
    if running.server.admin_listen != config.server.admin_listen {
        note("server", "admin_listen", Some(&running.server.admin_listen));
    }
    let text = |secret: &Option<Secret>| secret.as_ref().map(|it| it.reveal().to_owned());
    if running.store.url.reveal() != config.store.url.reveal() {
        note("store", "url", None);
    }
    if text(&running.security.encryption_key) != text(&config.security.encryption_key) {
        note("security", "encryption_key", None);
    }
    let former = |config: &Config| -> Vec<String> {
        config.security.previous_encryption_keys.iter().map(|key| key.reveal().to_owned()).collect()
    };
    if former(running) != former(config) {
        note("security", "previous_encryption_keys", None);
    }
    if problems.is_empty() {
        return;
    }
    let root = yaml::parse(loaded.files.main(), &mut Context::of(loaded.files.main()));
    for (section, key, message) in problems {
        loaded.problems.push(Problem {
            severity: Severity::Error,
            code: "needs-restart",
            message,
            place: place(root.as_ref(), &section, &key),
            help: Some("put it back as it was, or restart the relay".to_owned()),
            note: None,
            fix: None,
            label: None,
            path: Some(format!("{section}.{key}")),
        });
    }
    loaded.problems.sort_by_key(|problem| problem.place.start);
    loaded.config = None;
}

/// Refuses `loaded` because something of it cannot be made ready, which shows only then.
pub fn refuse(loaded: &mut Loaded, destination: Option<&str>, message: String) {
    let root = yaml::parse(loaded.files.main(), &mut Context::of(loaded.files.main()));
    let place = destination.map_or_else(Place::default, |name| place(root.as_ref(), "destinations", name));
    let path = destination.map(|name| format!("destinations.{name}"));
    let problem = Problem {
        severity: Severity::Error,
        code: "cannot-run",
        message,
        place,
        help: None,
        note: None,
        fix: None,
        label: None,
        path,
    };
    loaded.problems.push(problem);
    loaded.config = None;
}

/// Where the main file says `section.key`; where it says nothing, its section, or its beginning.
fn place(root: Option<&Node>, section: &str, key: &str) -> Place {
    let section = root.and_then(|root| root.get(section));
    let value = section.and_then(|section| section.get(key)).map(|node| node.place);
    value.or(section.map(|section| Place { end: section.place.start, ..section.place })).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, File, report};

    fn loaded(text: &str) -> Loaded {
        config::parse(File { path: "routes.yaml".into(), text: text.to_owned() }, &|_: &str| None)
    }

    fn said(running: &str, next: &str) -> String {
        let mut next = loaded(next);
        needs_restart(&loaded(running).config.unwrap(), &mut next);
        let lines = report::diagnostics(&next).into_iter().filter(|it| it.severity == "error");
        let lines: Vec<_> = lines.map(|it| format!("{}:{} {} {}", it.line, it.col, it.code, it.message)).collect();
        assert_eq!(next.config.is_none(), !lines.is_empty());
        lines.join("\n")
    }

    #[test]
    fn what_needs_a_restart_is_refused_where_it_stands() {
        let running = "version: 1\nserver: {listen: 127.0.0.1:1, admin_listen: 127.0.0.1:2, max_body: 2KiB}\nstore: {url: 'sqlite://a.db'}\n";
        let next = "version: 1\nserver:\n  listen: 127.0.0.1:3\n  max_body: 3KiB\nstore: {url: 'sqlite://b.db'}\n\
            security: {encryption_key: 'MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE='}\n";
        insta::assert_snapshot!(said(running, next), @"
        3:3 needs-restart `server.admin_listen` cannot change while the relay runs: it is 127.0.0.1:2
        3:11 needs-restart `server.listen` cannot change while the relay runs: it is 127.0.0.1:1
        5:14 needs-restart `store.url` cannot change while the relay runs
        6:28 needs-restart `security.encryption_key` cannot change while the relay runs
        ");
        let live = running.replace("2KiB", "3KiB, shutdown_grace: 1s, public_url: 'https://a.example'");
        assert_eq!(said(running, &live), "");
        assert_eq!(said(&live, running), "");
    }
}
