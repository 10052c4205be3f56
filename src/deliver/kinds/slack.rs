//! `kind: slack`: messages in Block Kit to an incoming webhook (`url`), or by a bot to a channel (`bot_token`, `channel`) or to the member
//! who stands behind the event's namespace (`channel: contact`), where later messages may answer the first of their thread
//! (`thread_by`).
//!
//! Facts: Slack's pages on incoming webhooks, `chat.postMessage` and rate limits; `delivery.md`, "What answers mean".

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tokio::time::timeout_at;

use super::{TEMPLATE, THREAD_BY, TemplateRef};
use crate::{
    config::decode::{Context, Field, Fields, Keys, Located},
    contacts::{Contacts, NoRecipients},
    deliver::{
        answers::Reading,
        attempt::{Tried, Try},
        client::{Answer, Failure, FailureKind},
        endpoint::{Body, Endpoint, read_url, url},
        making::{Draft, Making},
        reach::{Asking, Unreached},
    },
    envelope::{Envelope, JSON},
    render::SlackMessage,
    route::{self, handling::Audience, path::Path},
    secret::Secret,
    sign::sha256,
    store,
    telemetry::logs::plain,
};

mod answer;
mod channel;

use answer::Said;
use channel::Channel;

/// How much of Slack's answer is read, in bytes: it repeats the message.
const ANSWER_MAX: usize = 64 * 1024;
/// Where bots post when `base_url` does not say.
const API: &str = "https://slack.com/api";

/// A Slack destination.
#[derive(Debug, Clone)]
pub struct Slack {
    endpoint: Endpoint,
    template: Option<TemplateRef>,
    /// `None`: an incoming webhook, which knows its channel.
    bot: Option<Bot>,
}

/// What only a bot has.
#[derive(Debug, Clone)]
struct Bot {
    channel: Channel,
    threads: Option<Threads>,
}

/// The keys of a Slack destination.
pub(super) const KEYS: Keys = Keys::of(&[
    Field::of::<Secret>("url", "The URL of an incoming webhook, which knows its channel.")
        .example("${SLACK_WEBHOOK_URL}")
        .such_that(url),
    Field::of::<Secret>("bot_token", "A bot's token; with it come `channel` and threads.").example("${SLACK_BOT_TOKEN}"),
    Field::of::<Channel>("channel", "The channel's id, its name in quotes, or `contact`: the Slack user under `contacts`.")
        .example("C0123456789"),
    THREAD_BY,
    Field::of::<String>("base_url", "Where Slack's API is.").default(API).such_that(url),
    TEMPLATE,
])
.such_that(|slack| slack.exactly_one(&["url", "bot_token"]).needs("bot_token", &["channel"]));

impl Slack {
    /// Shares with `former` who begins which thread just now.
    pub(super) fn goes_on_from(&mut self, former: &Self) {
        let threads = |slack: &Self| Some(slack.bot.as_ref()?.threads.as_ref()?.turns.clone());
        if let Some(turns) = threads(former)
            && let Some(threads) = self.bot.as_mut().and_then(|bot| bot.threads.as_mut())
        {
            threads.turns = turns;
        }
    }

    /// Reads the keys of a Slack destination.
    pub(super) fn decode(name: &str, fields: &mut Fields<'_>, cx: &mut Context) -> Option<Self> {
        let template = fields.node("template").map(|node| TemplateRef::decode(name, node, cx));
        let url = fields.optional::<Located<Secret>>("url", cx);
        let token = fields.optional::<Located<Secret>>("bot_token", cx);
        let bot_keys = ["channel", "base_url", "thread_by"].map(|key| (key, fields.node(key).is_some()));
        let (endpoint, bot) = match (url, token) {
            (Some(url), None) => {
                for (key, _) in bot_keys.into_iter().filter(|(_, given)| *given) {
                    let message =
                        format!("`{key}` goes with `bot_token`: an incoming webhook has one channel and tells no thread");
                    cx.error("bad-value", fields.key_place(key), message);
                }
                let url = Located { value: url.value.reveal().to_owned(), place: url.place };
                (read_url(&url, cx).map(|url| Endpoint::at(url, HeaderMap::new())), Some(None))
            }
            (None, Some(token)) => (api(&token, fields, cx), Bot::decode(fields, cx).map(Some)),
            _ => {
                let message = format!("{} needs either `url` or `bot_token` with `channel`", fields.what());
                cx.error("missing-key", fields.place(), message);
                (None, None)
            }
        };
        let template = match template {
            Some(template) => Some(template?),
            None => None,
        };
        Some(Self { endpoint: endpoint?, template, bot: bot? })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Who reads its messages.
    pub(super) fn audience(&self) -> Audience {
        match &self.bot {
            Some(Bot { channel: Channel::Contact, .. }) => Audience::Namespace,
            _ => Audience::Same,
        }
    }

    /// Whether it writes as a bot, which can be asked who it is.
    pub(in crate::deliver) fn is_bot(&self) -> bool {
        self.bot.is_some()
    }

    /// Asks Slack whose token it is (`auth.test`); writes nothing.
    pub(in crate::deliver) async fn reach(&self, asking: &Asking<'_>) -> Result<String, Unreached> {
        let answer = asking.ask("chat.postMessage", "auth.test", true).await?;
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let word = |name: &str| said.get(name).and_then(Value::as_str).map(plain);
        if said.get("ok") == Some(&Value::Bool(true)) {
            return Ok(format!(
                "Slack knows the token: {} of {}",
                word("user").unwrap_or_default(),
                word("team").unwrap_or_default()
            ));
        }
        let code = word("error").unwrap_or_else(|| format!("http_{}", answer.status));
        Err(Unreached { said: format!("Slack does not take the token: {code}"), code })
    }

    pub(super) fn template(&self) -> Option<&TemplateRef> {
        self.template.as_ref()
    }

    pub(super) async fn send(&self, attempt: &Try<'_>, answers: &Reading) -> Tried {
        if let Some(kept) = attempt.kept() {
            return self.post(attempt, &kept, answers).await;
        }
        let (body, failed) = self.body(attempt);
        self.post(attempt, &body, answers).await.rendered(body, failed)
    }

    /// What would be sent.
    pub(super) fn draft(&self, making: &Making<'_>) -> Draft {
        let (mut body, failed) = self.body(making);
        let Some(bot) = &self.bot else { return Draft::plain((body, failed)) };
        let channel = bot.channel.known(making.event, making.contacts);
        if let Ok(channel) = &channel {
            body.bytes = addressed(channel, &body.bytes, None).into();
        }
        let to = (bot.channel == Channel::Contact).then(|| channel.map(|member| vec![member]));
        Draft { body, failed, to }
    }

    /// Why nobody could be written to, as far as that is known without asking.
    pub(super) fn unaddressed(&self, event: &Envelope, contacts: &Contacts) -> Option<NoRecipients> {
        self.bot.as_ref()?.channel.known(event, contacts).err()
    }

    /// The message, and why a template was not used.
    fn body(&self, making: &Making<'_>) -> (Body, Option<String>) {
        let message = making.message(self.template.as_ref().map(|template| template.name.as_str()));
        (Body { content_type: JSON.to_owned(), bytes: payload(message.slack).into() }, message.failed)
    }

    async fn post(&self, attempt: &Try<'_>, message: &Body, answers: &Reading) -> Tried {
        let Some(bot) = &self.bot else {
            return match self.endpoint.post(attempt, message, ANSWER_MAX).await {
                Ok(answer) => Said::read(&answer).tried(answer, attempt.at, answers),
                Err(failure) => Tried::failed(failure),
            };
        };
        let channel = match bot.channel.of(attempt).await {
            Ok(channel) => channel,
            Err(nobody) => return nobody,
        };
        match self.threaded(bot, &channel, attempt, message).await {
            Ok((answer, said)) => said.to(&bot.channel).tried(answer, attempt.at, answers),
            Err(failure) => Tried::failed(failure),
        }
    }

    /// Posts as an answer to the first message of its thread, or as that first message. Others of a thread that has not begun
    /// wait for the first.
    async fn threaded(&self, bot: &Bot, channel: &str, attempt: &Try<'_>, message: &Body) -> Result<(Answer, Said), Failure> {
        let threads = bot.threads.as_ref().filter(|_| !attempt.is_test());
        let thread = threads.and_then(|threads| Some((threads, threads.key(attempt, channel)?)));
        let Some((threads, key)) = thread else { return self.chat(channel, attempt, message, None).await };
        let mut root = attempt.store.thread(key).await.map_err(unkept)?;
        let turn = threads.turn(key);
        let mut first = None;
        if root.is_none() {
            first = Some(timeout_at(attempt.deadline, turn.lock()).await.map_err(|_| waited())?);
            root = attempt.store.thread(key).await.map_err(unkept)?;
        }
        if let Some(root) = &root {
            let (answer, said) = self.chat(channel, attempt, message, Some(root)).await?;
            if !said.lost_thread() {
                return Ok((answer, said));
            }
            // The first message is gone: the thread begins anew with this one.
            attempt.store.set_thread(key, None).await.map_err(unkept)?;
        }
        let (answer, said) = self.chat(channel, attempt, message, None).await?;
        if let Some(ts) = said.ts()
            && let Err(error) = attempt.store.set_thread(key, Some(ts.to_owned())).await
        {
            // It has arrived: sending it once more for the sake of the thread would be worse.
            tracing::warn!(delivery.id = %attempt.delivery.id, %error, "the first message of a thread cannot be kept: the next one begins it anew");
        }
        drop(first);
        Ok((answer, said))
    }

    async fn chat(
        &self,
        channel: &str,
        attempt: &Try<'_>,
        message: &Body,
        root: Option<&str>,
    ) -> Result<(Answer, Said), Failure> {
        let body = Body { content_type: message.content_type.clone(), bytes: addressed(channel, &message.bytes, root).into() };
        let answer = self.endpoint.post(attempt, &body, ANSWER_MAX).await?;
        let said = Said::read(&answer);
        Ok((answer, said))
    }
}

/// Where a bot posts, and as whom.
fn api(token: &Located<Secret>, fields: &mut Fields<'_>, cx: &mut Context) -> Option<Endpoint> {
    let base = fields.optional::<Located<String>>("base_url", cx);
    let base = base.unwrap_or_else(|| Located { value: API.to_owned(), place: fields.key_place("base_url") });
    let url = Located { value: format!("{}/chat.postMessage", base.value.trim_end_matches('/')), ..base };
    let url = read_url(&url, cx);
    let header = HeaderValue::try_from(format!("Bearer {}", token.value.reveal()));
    let Some(mut header) = header.ok().filter(|_| !token.value.is_empty()) else {
        cx.error("bad-value", token.place, "`bot_token` is a token such as Slack shows it, beginning with xoxb-");
        return None;
    };
    header.set_sensitive(true);
    Some(Endpoint::at(url?, HeaderMap::from_iter([(AUTHORIZATION, header)])))
}

impl Bot {
    fn decode(fields: &mut Fields<'_>, cx: &mut Context) -> Option<Self> {
        if fields.node("channel").is_none() {
            fields.missing("channel", cx);
        }
        let channel = fields.optional("channel", cx);
        let by = fields.node("thread_by").map(|_| fields.optional::<Path>("thread_by", cx));
        let threads = match by {
            Some(by) => Some(Threads { by: by?, turns: Arc::default() }),
            None => None,
        };
        Some(Self { channel: channel?, threads })
    }
}

/// `message` with today's address.
fn addressed(channel: &str, message: &[u8], root: Option<&str>) -> Vec<u8> {
    let mut address = json!({ "channel": channel });
    if let Some(root) = root {
        address["thread_ts"] = root.into();
    }
    let mut out = address.to_string().into_bytes();
    out.pop();
    out.push(b',');
    out.extend_from_slice(message.get(1..).unwrap_or(b"}"));
    out
}

/// What makes messages answers to the first of their thread.
#[derive(Clone)]
struct Threads {
    /// What a thread is known by.
    by: Path,
    /// Who begins which thread just now.
    turns: Arc<Mutex<HashMap<[u8; 16], Weak<Turn>>>>,
}

/// Held by whoever begins a thread.
type Turn = tokio::sync::Mutex<()>;

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Threads").field("by", &self.by).finish_non_exhaustive()
    }
}

impl Threads {
    /// What the thread of this message is kept by; `None` where its event has nothing to go by.
    fn key(&self, attempt: &Try<'_>, channel: &str) -> Option<[u8; 16]> {
        let value = self.by.text_in(&route::to_value(attempt.event))?;
        let target = attempt.delivery.target.as_str();
        let hash = sha256(&[target.as_bytes(), b"\0", channel.as_bytes(), b"\0", value.as_bytes()]);
        hash.first_chunk().copied()
    }

    /// Held by whoever begins the thread; no more of them live than attempts are under way.
    fn turn(&self, key: [u8; 16]) -> Arc<Turn> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() != 0);
        if let Some(turn) = turns.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(key, Arc::downgrade(&turn));
        turn
    }
}

fn unkept(error: store::Error) -> Failure {
    Failure { kind: FailureKind::Closed, detail: format!("nothing was sent: its thread cannot be looked up: {error}") }
}

fn waited() -> Failure {
    let detail = "nothing was sent: the first message of its thread was not answered within the timeout".to_owned();
    Failure { kind: FailureKind::Timeout, detail }
}

/// The message as both ways in take it. Only what stands in an attachment has a coloured bar; what stands before it keeps `text` from
/// being shown beside the blocks. Links are not looked up by Slack: one of them may be a person's alone.
fn payload(message: SlackMessage) -> Vec<u8> {
    let SlackMessage { text, color, mut blocks } = message;
    let mut payload = json!({ "text": text, "unfurl_links": false, "unfurl_media": false });
    if let Some(color) = color.filter(|_| 1 < blocks.len()) {
        let rest = blocks.split_off(1);
        payload["attachments"] = json!([{ "color": color, "blocks": rest }]);
    }
    payload["blocks"] = Value::Array(blocks);
    payload.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::testing::destination;

    #[test]
    fn what_a_slack_destination_cannot_be_is_an_error() {
        let wrong = |yaml: &str| destination("ops", yaml).err().unwrap_or_default().join("; ");
        let all = [
            "{kind: slack}",
            "{kind: slack, url: 'https://hooks.slack.com/services/x', bot_token: xoxb-1, channel: C1}",
            "{kind: slack, url: 'https://hooks.slack.com/services/x', thread_by: $.data.id}",
            "{kind: slack, bot_token: xoxb-1}",
            "{kind: slack, bot_token: '', channel: C1}",
            "{kind: slack, bot_token: xoxb-1, channel: 'two words'}",
            "{kind: slack, bot_token: xoxb-1, channel: C1, thread_by: data.id}",
            "{kind: slack, bot_token: xoxb-1, channel: C1, base_url: 'http://slack.example.com'}",
            "{kind: slack, url: 'ftp://hooks.slack.com/x'}",
            "{kind: slack, url: 'https://hooks.slack.com/services/x', signing: {secrets: [x]}}",
        ];
        insta::assert_snapshot!(all.map(wrong).join("\n"), @r#"
        destination `ops` needs either `url` or `bot_token` with `channel`
        destination `ops` needs either `url` or `bot_token` with `channel`
        `thread_by` goes with `bot_token`: an incoming webhook has one channel and tells no thread
        destination `ops` needs `channel`
        `bot_token` is a token such as Slack shows it, beginning with xoxb-
        `channel` is a channel's id such as C0123456789, its name, or `contact`
        `data.id` is not a path: a path begins with `$`
        a target must be https
        expected a URL such as https://example.com/hooks
        destination `ops` has no key `signing`
        "#);
    }

    #[test]
    fn a_message_a_second_is_the_rate_of_one_that_names_none() {
        let rate = |more: &str| {
            let yaml = format!("{{kind: slack, url: 'https://hooks.slack.com/services/T/B/hush'{more}}}");
            destination("ops", &yaml).unwrap().rate_limit.unwrap()
        };
        assert_eq!((rate("").count, rate("").burst), (1, 1));
        assert_eq!(rate(", rate_limit: 5/s").count, 5);
    }

    #[test]
    fn it_prints_without_its_secrets() {
        for yaml in [
            "{kind: slack, url: 'https://hooks.slack.com/services/T/B/hush'}",
            "{kind: slack, bot_token: xoxb-hush, channel: C1, thread_by: $.id}",
        ] {
            let it = destination("ops", yaml).unwrap();
            let shown = format!("{it:?} {}", it.masked_url());
            assert!(!shown.contains("hush") && shown.contains("slack.com/***"), "{shown}");
        }
    }

    #[test]
    fn the_bar_is_an_attachment_behind_the_first_block() {
        let message = |color, blocks| SlackMessage { text: "t".into(), color, blocks };
        let shown = |message| String::from_utf8(payload(message)).unwrap();
        let two = || vec![json!({"type": "header"}), json!({"type": "section"})];
        insta::assert_snapshot!(shown(message(Some("#d92d20"), two())), @r##"{"text":"t","unfurl_links":false,"unfurl_media":false,"attachments":[{"color":"#d92d20","blocks":[{"type":"section"}]}],"blocks":[{"type":"header"}]}"##);
        insta::assert_snapshot!(shown(message(None, two())), @r##"{"text":"t","unfurl_links":false,"unfurl_media":false,"blocks":[{"type":"header"},{"type":"section"}]}"##);
    }
}
