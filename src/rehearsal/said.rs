//! What a message says, in every form it has, to be searched; and what of it is shown to somebody who looked for something else.

use serde_json::Value;
use url::form_urlencoded;

use crate::deliver::Sent;

/// All that `sent` says to whoever reads it, line by line: of a mail its subject, text and HTML; of JSON every text in it, as it is written
/// there and as Slack shows it; of a form its values; and the body itself.
pub(super) fn searchable(sent: &Sent) -> String {
    if let Some(message) = sent.message.as_ref().filter(|_| is_mail(sent)) {
        return [message.subject.as_str(), &message.text, &message.html].join("\n");
    }
    let body = String::from_utf8_lossy(&sent.body);
    let mut all = texts(sent);
    let unescaped: Vec<_> = all.iter().filter(|text| text.contains('&')).map(|text| shown_by_slack(text)).collect();
    all.extend(unescaped);
    all.push(body.into_owned());
    all.join("\n")
}

/// What is shown of `sent`: what a person would read, or the body.
pub(super) fn shown(sent: &Sent) -> String {
    match &sent.message {
        Some(message) if is_mail(sent) => format!("{}\n\n{}", message.subject, message.text),
        Some(_) => texts(sent).join("\n"),
        None => String::from_utf8_lossy(&sent.body).into_owned(),
    }
}

fn is_mail(sent: &Sent) -> bool {
    sent.content_type == "message/rfc822"
}

/// The texts of a body that is JSON, or a form; none of any other.
fn texts(sent: &Sent) -> Vec<String> {
    let mut texts = Vec::new();
    if let Ok(json) = serde_json::from_slice(&sent.body) {
        leaves(&json, &mut texts);
    } else if sent.content_type.starts_with("application/x-www-form-urlencoded") {
        texts.extend(form_urlencoded::parse(&sent.body).map(|(_, value)| value.into_owned()));
    }
    texts
}

/// Every text of `json`; what is parsed is no deeper than the parser allows.
fn leaves(json: &Value, texts: &mut Vec<String>) {
    match json {
        Value::String(text) => texts.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| leaves(item, texts)),
        Value::Object(map) => map.values().for_each(|value| leaves(value, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What Slack makes of its escapes.
fn shown_by_slack(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(content_type: &str, body: &'static str) -> Sent {
        Sent { headers: Vec::new(), content_type: content_type.into(), body: body.into(), to: Vec::new(), message: None }
    }

    #[test]
    fn every_form_is_searched() {
        let json = searchable(&sent("application/json", r#"{"a":[{"b":"R&amp;D \"x\""}],"n":1.50}"#));
        assert!(json.contains("R&D \"x\"") && json.contains("1.50") && json.contains("R&amp;D"), "{json}");
        let form = searchable(&sent("application/x-www-form-urlencoded", "To=whatsapp%3A%2B1555&Body=a+b%26c"));
        assert!(form.contains("a b&c") && form.contains("whatsapp:+1555"), "{form}");
        assert_eq!(searchable(&sent("text/plain", "é")), "é");
    }
}
