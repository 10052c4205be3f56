//! `kind: email`: a mail with text and HTML to people, handed in at one mail server.
//!
//! The mail is made once; what came of each recipient is kept beside it, so that later attempts write only to those who have not got
//! it. Its `Message-ID` is the delivery's, so that one which arrives twice (the server's last answer got lost) can be told.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use lettre::transport::smtp::{
    commands::{Data, Mail, Rcpt, Rset},
    extension::{Extension, MailBodyParameter, MailParameter},
};
use tokio::time::timeout_at;
use url::Host;

use super::{TEMPLATE, THREAD_BY, TemplateRef};
use crate::{
    config::{
        decode::{Context, Field, Fields, Keys},
        tree::Place,
    },
    contacts::{Contacts, Mailbox, NoRecipients, Recipients},
    deliver::{
        attempt::{Outcome, Tried, Try},
        client::FailureKind,
        connect::Forbidden,
        making::{Draft, Making},
        policy::AddressPolicy,
        reach::Unreached,
        stage::Stage,
        tls::TlsProfile,
    },
    envelope::Envelope,
    route::{self, handling::Audience, path::Path},
    store::{Cause, Rendered},
};

mod answer;
mod connection;
mod message;
mod settings;

use answer::{Meaning, Progress, Refused};
use connection::{Connection, Pool};
use settings::Server;

/// Media type by which a kept body is known as a mail.
const MAIL: &str = "message/rfc822";

/// An email destination.
#[derive(Debug, Clone)]
pub struct Email {
    server: Server,
    from: Mailbox,
    to: Recipients<Mailbox>,
    thread_by: Option<Path>,
    template: Option<TemplateRef>,
    pool: Arc<Pool>,
}

/// The keys of an email destination.
pub(super) const KEYS: Keys = Keys::of(&[
    Field::of::<Server>("smtp", "The server that takes its mail.").required(),
    Field::of::<Mailbox>("from", "Who sends.").required().example("Integrations <integrations@example.com>"),
    THREAD_BY,
    TEMPLATE,
    Field::of::<TlsProfile>("tls", "Which certificates are trusted.").default("{}"),
])
.and(&[Recipients::<Mailbox>::KEYS])
.such_that(|email| email.without(&OF_HTTP));

/// Keys of destinations that say how answers over HTTP are read; mail has its own.
const OF_HTTP: [&str; 2] = ["answers", "status_rules"];

impl Email {
    /// Reads the keys of an email destination.
    pub(super) fn decode(name: &str, fields: &mut Fields<'_>, cx: &mut Context) -> Option<Self> {
        let tls = fields.or("tls", TlsProfile::default(), cx);
        let server = match fields.node("smtp") {
            Some(node) => Server::decode(node, &tls, cx),
            None => {
                fields.missing("smtp", cx);
                None
            }
        };
        let from = fields.required::<Mailbox>("from", cx).filter(|from| from_is_ascii(from, fields.key_place("from"), cx));
        let to = Recipients::decode(fields, cx);
        let thread_by = fields.optional("thread_by", cx);
        let template = fields.node("template").map(|node| TemplateRef::decode(name, node, cx));
        let template = match template {
            Some(template) => Some(template?),
            None => None,
        };
        for key in OF_HTTP {
            if fields.node(key).is_some() {
                cx.error(
                    "bad-value",
                    fields.key_place(key),
                    format!("`{key}` says how answers over HTTP are read; mail has its own"),
                );
            }
        }
        Some(Self { server: server?, from: from?, to: to?, thread_by, template, pool: Arc::default() })
    }

    pub(super) fn masked_url(&self) -> String {
        self.server.masked_url()
    }

    /// Greets the mail server, under TLS and with its login where it has one, and says goodbye; hands in nothing.
    pub(in crate::deliver) async fn reach(&self, policy: &AddressPolicy) -> Result<String, Unreached> {
        let opened = Connection::open(&self.server, policy, &self.from.domain).await;
        let connection = opened.map_err(|refused| Unreached { code: refused.error, said: refused.said })?;
        connection.farewell().await;
        Ok(if self.server.login.is_some() { "the mail server takes the login" } else { "the mail server greets" }.to_owned())
    }

    /// Who reads its mails: as its recipients are found.
    pub(super) fn audience(&self) -> Audience {
        match &self.to {
            Recipients::Literal(_) => Audience::Same,
            Recipients::Contact => Audience::Namespace,
            Recipients::Path { path, .. } => Audience::At(path.clone()),
        }
    }

    pub(super) fn template(&self) -> Option<&TemplateRef> {
        self.template.as_ref()
    }

    pub(super) async fn send(&self, attempt: &Try<'_>) -> Tried {
        let (mail, mut progress, failed) = match self.mail(attempt).await {
            Ok(made) => made,
            Err(unsent) => return unsent,
        };
        let handed_in = self.hand_in(attempt, &mail, &mut progress).await;
        let mut tried = tried(&progress, handed_in.err());
        tried.template_failed = failed.is_some();
        tried.detail = [tried.detail, failed].into_iter().flatten().reduce(|all, one| format!("{all}; {one}"));
        let (reached, progress) = (progress.reached(), Some(Bytes::from(progress.bytes())));
        tried.rendered = Some(Rendered { content_type: MAIL.to_owned(), body: mail, progress, reached });
        tried
    }

    /// Why nobody could be written to, as far as that is known without asking.
    pub(in crate::deliver) fn unaddressed(&self, event: &Envelope, contacts: &Contacts) -> Option<NoRecipients> {
        self.to.known(event, contacts).err()
    }

    /// What would be sent: what its reader sees.
    pub(in crate::deliver) fn draft(&self, making: &Making<'_>) -> Draft {
        let message = making.message(self.template.as_ref().map(|template| template.name.as_str()));
        let text = format!("Subject: {}\n\n{}", message.subject, message.text);
        let to = self.to.known(making.event, making.contacts);
        Draft::for_people(text, message.failed, to.map(|to| to.iter().map(Mailbox::address).collect()))
    }

    /// The mail, and who waits for it: as kept, or made now. Also why a template was not used.
    async fn mail(&self, attempt: &Try<'_>) -> Result<(Bytes, Progress, Option<String>), Tried> {
        let kept = attempt.delivery.body.as_ref().filter(|kept| kept.content_type == MAIL);
        if let Some((kept, progress)) = kept.and_then(|kept| Some((kept, Progress::read(kept.progress.as_ref()?)?))) {
            return Ok((kept.body.clone(), progress, None));
        }
        let to = self.to.of(attempt.event, attempt.contacts).await.map_err(|none| unaddressed(&none))?;
        let message = attempt.message(self.template.as_ref().map(|template| template.name.as_str()));
        let thread = self.thread_by.as_ref().and_then(|path| path.text_in(&route::to_value(attempt.event)));
        let made = message::bytes(&message::Parts {
            from: &self.from,
            to: &to,
            list: &attempt.delivery.target,
            delivery: attempt.delivery.id,
            thread: thread.as_deref(),
            at: attempt.at,
            message: &message,
        });
        let mail =
            made.map_err(|reason| unsent(Outcome::Permanent { cause: Cause::Internal, moved: false }, "internal", reason))?;
        Ok((mail.into(), Progress::new(to), message.failed))
    }

    /// Hands `mail` in for those that wait. The error is one that befell all that had not been spoken of.
    async fn hand_in(&self, attempt: &Try<'_>, mail: &[u8], progress: &mut Progress) -> Result<(), Refused> {
        if let Some(stage) = attempt.http.stage() {
            return self.rehearse(attempt, stage, mail, progress);
        }
        let mut sent = false;
        let work = self.converse(attempt, mail, progress, &mut sent);
        let done = match timeout_at(attempt.deadline, work).await {
            Ok(done) => done,
            Err(_) => Err(Refused::failed(FailureKind::Timeout, "the mail server did not answer within the timeout")),
        };
        done.map_err(|mut refused| {
            if sent && refused.code.is_none() {
                refused.said.push_str("; the mail was handed over and may have arrived: a second one has the same Message-ID");
            }
            progress.refuse(&progress.unheard(), &refused);
            refused
        })
    }

    /// What a server would be handed that takes everything. An address that is forbidden is so here too.
    fn rehearse(&self, attempt: &Try<'_>, stage: &Stage, mail: &[u8], progress: &mut Progress) -> Result<(), Refused> {
        let literal = match self.server.host {
            Host::Ipv4(address) => Some(IpAddr::V4(address)),
            Host::Ipv6(address) => Some(IpAddr::V6(address)),
            Host::Domain(_) => None,
        };
        if literal.is_some_and(|address| attempt.http.policy().forbids(address)) {
            let refused = Refused::failed(FailureKind::Forbidden, &Forbidden::by(attempt.http.policy()).to_string());
            progress.refuse(&progress.unheard(), &refused);
            return Err(refused);
        }
        let waiting: Vec<_> = progress.waiting().collect();
        let to = progress.0.iter().map(|(to, _)| to.address()).collect();
        stage.takes_mail(MAIL, to, Bytes::copy_from_slice(mail));
        progress.take(&waiting, "250 taken in a rehearsal");
        Ok(())
    }

    async fn converse(&self, attempt: &Try<'_>, mail: &[u8], progress: &mut Progress, sent: &mut bool) -> Result<(), Refused> {
        let policy = attempt.http.policy();
        let mut reused = self.pool.take();
        loop {
            let was_used = reused.is_some();
            let mut connection = match reused.take() {
                Some(connection) => connection,
                None => Connection::open(&self.server, policy, &self.from.domain).await?,
            };
            match self.begin(&mut connection, mail, progress).await {
                Ok(()) => return self.go_on(connection, mail, progress, sent).await,
                // It was idle for longer than the server waits: nothing was said of the mail yet.
                Err(refused) if was_used && refused.is_stale() => {}
                Err(refused) => {
                    connection.leave();
                    return Err(refused);
                }
            }
        }
    }

    /// `MAIL FROM`.
    async fn begin(&self, connection: &mut Connection, mail: &[u8], progress: &mut Progress) -> Result<(), Refused> {
        let offers_utf8 = connection.smtp.server_info().supports_feature(Extension::SmtpUtfEight);
        let beyond_ascii: Vec<_> = progress.waiting().filter(|index| !progress.is_ascii(*index)).collect();
        if !offers_utf8 && !beyond_ascii.is_empty() {
            let said = "the mail server takes no addresses with letters beyond ASCII in front of the @ (SMTPUTF8)";
            progress.refuse(&beyond_ascii, &Refused::permanent("smtp_utf8", said));
        }
        if progress.waiting().next().is_none() {
            return Ok(());
        }
        let mut parameters = Vec::new();
        if offers_utf8 && (!beyond_ascii.is_empty() || !mail.is_ascii()) {
            parameters.push(MailParameter::SmtpUtfEight);
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        let from = Mail::new(Some(message::address(&self.from)), parameters);
        connection.smtp.command(from).await.map(|_| ()).map_err(|error| Refused::by(&error))
    }

    /// `RCPT TO` for each that waits, and the mail for those that were not refused.
    async fn go_on(
        &self,
        mut connection: Connection,
        mail: &[u8],
        progress: &mut Progress,
        sent: &mut bool,
    ) -> Result<(), Refused> {
        let waiting: Vec<_> = progress.waiting().collect();
        let mut accepted = Vec::new();
        for index in waiting {
            let Some((to, _)) = progress.0.get(index) else { continue };
            match connection.smtp.command(Rcpt::new(message::address(to), Vec::new())).await {
                Ok(_) => accepted.push(index),
                Err(error) => {
                    let refused = Refused::by(&error);
                    // The connection is over, or we are: nothing more can be asked.
                    if refused.is_stale() || refused.code.is_none() || refused.meaning == Meaning::Target {
                        connection.leave();
                        return Err(refused);
                    }
                    progress.refuse(&[index], &refused);
                }
            }
        }
        if accepted.is_empty() {
            match connection.smtp.command(Rset).await {
                Ok(_) => self.pool.put(connection),
                Err(_) => connection.leave(),
            }
            return Ok(());
        }
        let handed = match connection.smtp.command(Data).await {
            Ok(_) => {
                *sent = true;
                connection.smtp.message(mail).await
            }
            Err(error) => Err(error),
        };
        match handed {
            Ok(answer) => {
                let said: Vec<_> = answer.message().collect();
                progress.take(&accepted, &format!("{} {}", answer.code(), said.join(" ")));
                self.pool.put(connection);
                Ok(())
            }
            Err(error) => {
                connection.leave();
                Err(Refused::by(&error))
            }
        }
    }
}

/// The sender stands in every mail, also in those through servers that know ASCII only.
fn from_is_ascii(from: &Mailbox, place: Place, cx: &mut Context) -> bool {
    if !from.local.is_ascii() {
        cx.error("bad-value", place, "the sender's address needs ASCII in front of the `@`: not every server takes more");
    }
    from.local.is_ascii()
}

/// What an attempt came to in all.
fn tried(progress: &Progress, refused: Option<Refused>) -> Tried {
    let outcome = match refused.as_ref().map(|refused| refused.meaning) {
        Some(Meaning::Target) => Outcome::Target,
        Some(Meaning::Forbidden) => Outcome::Permanent { cause: Cause::Config, moved: false },
        _ if progress.waiting().next().is_some() => Outcome::Retry { after: None, whole_lane: false, denied: false },
        _ if progress.trouble().is_some() => Outcome::Permanent { cause: Cause::Receiver, moved: false },
        _ => Outcome::Delivered,
    };
    let trouble = refused.as_ref().or_else(|| progress.trouble());
    let delivered = outcome == Outcome::Delivered;
    Tried {
        outcome,
        status: if delivered { Some(250) } else { trouble.and_then(|trouble| trouble.code) },
        error: trouble.filter(|_| !delivered).map(|trouble| trouble.error.clone()),
        detail: (!delivered).then(|| match &refused {
            Some(refused) if progress.0.len() == 1 => refused.to_string(),
            _ => progress.summary(),
        }),
        response: progress.lines().into(),
        rendered: None,
        template_failed: false,
    }
}

/// Nobody can be written to: now, or at all.
pub(super) fn unaddressed(none: &NoRecipients) -> Tried {
    match none {
        NoRecipients::Unavailable(_) => unsent(Outcome::Unasked(None), "contacts_unavailable", none.to_string()),
        _ => unsent(Outcome::Unasked(Some(Cause::Config)), "no_recipients", none.to_string()),
    }
}

fn unsent(outcome: Outcome, error: &str, detail: String) -> Tried {
    Tried {
        outcome,
        status: None,
        error: Some(error.to_owned()),
        detail: Some(detail),
        response: Bytes::new(),
        rendered: None,
        template_failed: false,
    }
}
