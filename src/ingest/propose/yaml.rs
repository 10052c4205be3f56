//! A proposed case as YAML.

use super::{Group, Steps, path, pick::Facts, shape::Test};

/// The entry of `cases` for `group`.
pub(super) fn case(group: &Group, r#type: &str, facts: &Facts) -> String {
    let tests: Vec<_> = group.tests.iter().map(test).collect();
    let mut lines = vec![format!("- when: [{}]", tests.join(", ")), "  map:".to_owned()];
    lines.push(format!("    type: {}  # a name of your own choice", word(r#type)));
    match &facts.id {
        Some(steps) => {
            lines.push(format!("    id: {}  # must differ for every event: what repeats it is dropped", quoted_path(steps)))
        }
        None => lines.push("    # id: none is told; the hash of its bytes is its id".to_owned()),
    }
    let rest = [("time", &facts.time), ("namespace", &facts.namespace), ("subject", &facts.subject)];
    lines.extend(rest.into_iter().filter_map(|(name, steps)| Some(format!("    {name}: {}", quoted_path(steps.as_ref()?)))));
    lines.join("\n")
}

fn test(test: &Test) -> String {
    match test {
        Test::Is(steps, text) => format!("{{path: {}, eq: {}}}", quoted_path(steps), word(text)),
        Test::There(steps, there) => format!("{{path: {}, exists: {there}}}", quoted_path(steps)),
    }
}

/// A path; in quotes where YAML would read it otherwise.
fn quoted_path(steps: &Steps) -> String {
    let path = path(steps);
    if path.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'$' | b'.' | b'_')) { path } else { format!("\"{path}\"") }
}

/// Text of letters, digits and `_.:/-`; in quotes where YAML would read it otherwise.
fn word(text: &str) -> String {
    let simple = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    // Words that some YAML reads as something else, and what may be a number.
    let special = ["true", "false", "null", "yes", "no", "on", "off", "y", "n", "inf", "nan", "infinity"];
    if simple && !special.contains(&text.to_ascii_lowercase().as_str()) { text.to_owned() } else { format!("\"{text}\"") }
}

/// `text` with every line moved to the right.
#[cfg(test)]
pub(super) fn indented(text: &str, by: usize) -> String {
    text.lines().map(|line| format!("{:by$}{line}\n", "")).collect()
}
