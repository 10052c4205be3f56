//! A body as it may be shown: without what may be a secret, and no more of it than tells its shape.

use serde_json::{Map, Value};

use super::words;

/// What stands for a value that is not shown.
const MASK: &str = "***";
/// Longest text that is shown, in characters.
const TEXT_MAX: usize = 80;
/// Elements of a list, and members of an object, that are shown.
const ITEMS_MAX: usize = 3;
const MEMBERS_MAX: usize = 40;
/// How deep is shown.
const DEPTH_MAX: usize = 6;

/// Words of names behind which secrets stand.
const SECRET: [&str; 17] = [
    "secret",
    "secrets",
    "token",
    "tokens",
    "password",
    "passwd",
    "pwd",
    "passphrase",
    "authorization",
    "auth",
    "apikey",
    "signature",
    "cookie",
    "cookies",
    "credentials",
    "otp",
    "pin",
];
/// What keys are secret, by the word before.
const KEYS: [&str; 7] = ["api", "access", "private", "signing", "encryption", "session", "license"];
/// How secrets begin that say what they are.
const BEGINNINGS: [&str; 14] = [
    "sk_",
    "pk_live",
    "rk_",
    "whsec_",
    "xoxb-",
    "xoxp-",
    "xapp-",
    "ghp_",
    "gho_",
    "github_pat_",
    "glpat-",
    "eyJ",
    "Bearer ",
    "hy_",
];

/// `body` with values that may be secrets masked, long ones cut.
pub fn masked(body: &Value) -> Value {
    shown(body, 0)
}

fn shown(value: &Value, depth: usize) -> Value {
    match value {
        Value::Array(_) | Value::Object(_) if DEPTH_MAX <= depth => Value::from("…"),
        Value::Array(items) => {
            let mut out: Vec<_> = items.iter().take(ITEMS_MAX).map(|item| shown(item, depth + 1)).collect();
            if ITEMS_MAX < items.len() {
                out.push(Value::from("…"));
            }
            Value::Array(out)
        }
        Value::Object(map) => {
            let member = |(name, value): (&String, &Value)| {
                let value = if names_secret(name) && !value.is_null() { Value::from(MASK) } else { shown(value, depth + 1) };
                (cut(name), value)
            };
            Value::Object(map.iter().take(MEMBERS_MAX).map(member).collect::<Map<_, _>>())
        }
        Value::String(text) if is_secret(text) => Value::from(MASK),
        Value::String(text) => Value::from(cut(text)),
        other => other.clone(),
    }
}

fn cut(text: &str) -> String {
    let begin: String = text.chars().take(TEXT_MAX).collect();
    if begin.len() < text.len() { format!("{begin}…") } else { begin }
}

fn names_secret(name: &str) -> bool {
    let words = words(name);
    let key = words.windows(2).any(|pair| matches!(pair, [before, key] if key == "key" && KEYS.contains(&before.as_str())));
    key || words.iter().any(|word| SECRET.contains(&word.as_str()))
}

/// Whether a text says itself that it is a secret.
pub(super) fn is_secret(text: &str) -> bool {
    BEGINNINGS.iter().any(|begin| text.starts_with(begin))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_not_shown_and_the_rest_is_bounded() {
        let body = json!({"apiKey": "k1", "access_token": "t1", "nested": {"client-secret": "s1", "key": "OPS-1"}, "auth": {"user": "u"},
            "text": "x".repeat(200), "url": "Bearer abc", "list": [1, 2, 3, 4], "token": null, "n": 1.5});
        insta::assert_snapshot!(masked(&body).to_string(), @r#"{"apiKey":"***","access_token":"***","nested":{"client-secret":"***","key":"OPS-1"},"auth":"***","text":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…","url":"***","list":[1,2,3,"…"],"token":null,"n":1.5}"#);
        let mut deep = json!(1);
        (0..20).for_each(|_| deep = json!([deep]));
        assert!(masked(&deep).to_string().len() < 40);
    }
}
