//! Secrets that stand in the file itself, and private networks that deliveries may reach.

use ipnet::IpNet;

use crate::{
    config::{
        PROBLEMS_MAX,
        decode::Context,
        mask,
        tree::{Node, Value},
    },
    deliver::policy::AddressPolicy,
};

/// The sections in which there are secrets of the relay's own.
const SECTIONS: [&str; 6] = ["sources", "destinations", "defaults", "security", "reconnect", "contacts_lookup"];

/// Warns of both.
pub(super) fn check(root: &Node, cx: &mut Context) {
    for section in SECTIONS {
        if let Some(node) = root.get(section) {
            Walk { path: Vec::new(), cx }.node(node, section, false);
        }
    }
    let allowed = root.get("security").and_then(|security| security.get("allow_targets"));
    for node in allowed.map(Node::items).unwrap_or_default() {
        private_range(node, cx);
    }
}

struct Walk<'c> {
    /// The keys that lead to the value in hand, but for the section's.
    path: Vec<String>,
    cx: &'c mut Context,
}

impl Walk<'_> {
    fn node(&mut self, node: &Node, key: &str, secret: bool) {
        match &node.value {
            Value::Map(map) => {
                let slack = node.get("kind").and_then(Node::text) == Some("slack");
                for (inner, value) in map {
                    let name = inner.name.as_str();
                    let in_header = key == "header" && matches!(name, "value" | "values");
                    let secret = secret || mask::is_secret(name) || in_header || (key == "headers" && carries_credentials(name));
                    self.path.push(inner.name.clone());
                    self.node(value, name, secret || (slack && name == "url"));
                    self.path.pop();
                }
            }
            Value::List(items) => {
                // One of a list is enough to make the point.
                let literal = items.iter().find(|item| secret && is_literal(item));
                let others = items.iter().filter(|item| !is_literal(item));
                literal.into_iter().chain(others).for_each(|item| self.node(item, key, secret));
            }
            _ if secret && is_literal(node) => self.warn(node),
            _ => {}
        }
    }

    fn warn(&mut self, node: &Node) {
        // One that cannot be used has other worries.
        if PROBLEMS_MAX < self.cx.problems.len() || self.cx.problems.iter().any(|problem| problem.place == node.place) {
            return;
        }
        let name = self.variable();
        let help = format!(
            "put it in the environment and write ${{{name}}}, or in a file and write ${{file:/run/secrets/{}}}",
            name.to_lowercase()
        );
        self.cx.warning("literal-secret", node.place, "this secret stands in the file itself, for whoever reads it").help(help);
    }

    /// A name for the variable that could hold it: `OPS_SLACK_URL`.
    fn variable(&self) -> String {
        let last = self.path.last().map_or("secret", String::as_str);
        let what = match last {
            "secrets" | "values" | "value" => "secret",
            other => other,
        };
        let first = self.path.first().filter(|_| 1 < self.path.len()).map(|first| format!("{first}_")).unwrap_or_default();
        format!("{first}{what}").chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
    }
}

fn is_literal(node: &Node) -> bool {
    !node.referenced && node.text().is_some_and(|text| !text.is_empty())
}

/// Headers whose values are secrets, as far as their names tell; fewer than are hidden, since a word too many is no harm there.
fn carries_credentials(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["authorization", "token", "secret", "api-key", "apikey", "cookie", "password"].iter().any(|part| name.contains(part))
}

/// A network of more than one address, of which some are not public.
fn private_range(node: &Node, cx: &mut Context) {
    let Some(net) = node.text().and_then(|text| text.parse::<IpNet>().ok()) else { return };
    let public = AddressPolicy::new(&[]);
    let private = [net.network(), net.broadcast()].into_iter().any(|end| !public.permits(end)) || net.prefix_len() < 8;
    if private && net.prefix_len() < net.max_prefix_len() {
        let message = "whoever may set a target's URL reaches all of this network";
        cx.warning("allowed-private", node.place, message).help("name the hosts or addresses that are needed, and no more");
    }
}
