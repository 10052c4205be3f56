//! Any YAML as the JSON that a sender would have written.

use serde_json::value::RawValue;

use crate::config::{
    decode::Context,
    tree::{Node, Value},
};

/// `node` as compact JSON. A number stays as it is written where JSON writes it so (`1.20`, `9007199254740993`); one that JSON has no
/// way to write is noted, and then there is none.
pub(super) fn json(node: &Node, cx: &mut Context) -> Option<String> {
    let mut out = String::new();
    write(node, &mut out, cx).then_some(out)
}

/// Whether all of `node` could be written. What cannot be does not keep the rest from being looked at.
fn write(node: &Node, out: &mut String, cx: &mut Context) -> bool {
    match &node.value {
        Value::Null => out.push_str("null"),
        Value::Bool(yes) => out.push_str(if *yes { "true" } else { "false" }),
        Value::Int(number) => out.push_str(&exact(node, cx).unwrap_or_else(|| number.to_string())),
        Value::Float(number) => {
            let plain = || serde_json::Number::from_f64(*number).map(|number| number.to_string());
            let Some(text) = exact(node, cx).or_else(plain) else {
                cx.error("bad-value", node.place, "JSON has no such number").help("put it in quotes");
                return false;
            };
            out.push_str(&text);
        }
        Value::String(text) => quoted(text, out),
        Value::List(items) => return list(items, out, cx),
        Value::Map(_) => return map(node, out, cx),
    }
    true
}

fn list(items: &[Node], out: &mut String, cx: &mut Context) -> bool {
    let mut good = true;
    out.push('[');
    for (at, item) in items.iter().enumerate() {
        if 0 < at {
            out.push(',');
        }
        good &= write(item, out, cx);
    }
    out.push(']');
    good
}

fn map(node: &Node, out: &mut String, cx: &mut Context) -> bool {
    let mut good = true;
    out.push('{');
    for (at, (key, value)) in node.entries().iter().enumerate() {
        if 0 < at {
            out.push(',');
        }
        quoted(&key.name, out);
        out.push(':');
        good &= write(value, out, cx);
    }
    out.push('}');
    good
}

/// A number as the file writes it, where that is how JSON would.
fn exact(node: &Node, cx: &Context) -> Option<String> {
    let text = cx.written(node.place)?;
    let is_number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    (is_number && serde_json::from_str::<&RawValue>(text).is_ok()).then(|| text.to_owned())
}

fn quoted(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml;

    fn made(text: &str) -> Result<String, String> {
        let mut cx = Context::of(text);
        let node = yaml::parse(text, &mut cx).unwrap();
        json(node.get("v").unwrap(), &mut cx).ok_or_else(|| cx.problems.remove(0).message)
    }

    #[test]
    fn numbers_stay_as_they_are_written() {
        let yaml = "v: [1.20, -0.0, 9007199254740993, 1e3, 1E+2, 0x1F, +7, 123456789012345678901234567890.5]";
        insta::assert_snapshot!(made(yaml).unwrap(), @"[1.20,-0.0,9007199254740993,1e3,1E+2,31,7,123456789012345678901234567890.5]");
    }

    #[test]
    fn the_rest_is_as_yaml_1_2_means_it() {
        let yaml = "v: {a: yes, b: true, c: ~, d: 'x\"\\', e: [], f: {}, 404: é, h: 2026-01-20, i: &n 1.50, j: *n}";
        insta::assert_snapshot!(made(yaml).unwrap(), @r#"{"a":"yes","b":true,"c":null,"d":"x\"\\","e":[],"f":{},"404":"é","h":"2026-01-20","i":1.50,"j":1.5}"#);
        assert_eq!(made("v: a").unwrap(), "\"a\"");
    }

    #[test]
    fn what_json_cannot_write_is_noted() {
        assert_eq!(made("v: [1, .nan, .inf]"), Err("JSON has no such number".to_owned()));
    }
}
