//! Who stands behind a namespace: a namespace in, mail addresses, a Slack user and numbers out. Sends no message, and knows no event
//! but by its namespace (and by the path that names its recipients).
//!
//! Asked in this order, the first that knows the namespace decides: the list in `routes.yaml`, the contacts file, the look-up service.
//! What the one found does not have (it has a Slack user, and a mail is to be sent) comes from `*`, as it does for namespaces nobody
//! stands behind and for events without one.

use std::sync::{Arc, RwLock, Weak};

use tokio::time::{Duration, sleep};

use crate::{
    announce::{Announcer, Notice},
    clock::Clock,
    config::{
        AllowTarget,
        decode::{Context, Decode, Located},
        tree::Node,
    },
    deliver::{fetch::Fetch, policy::AddressPolicy},
};

pub mod address;
mod entry;
mod file;
mod lookup;
pub mod recipients;
#[cfg(test)]
mod tests;

pub use address::{Mailbox, Number, SlackUser};
pub use entry::Contact;
pub use file::ContactsFile;
pub use lookup::Lookup;
pub use recipients::{NoRecipients, Recipients};

use entry::Book;
use lookup::Service;

/// How somebody is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// Mail addresses.
    pub email: Vec<Mailbox>,
    /// A member of the Slack workspace.
    pub slack: Option<SlackUser>,
    /// Numbers for WhatsApp.
    pub whatsapp: Vec<Number>,
}

impl Found {
    /// True when there is no way to reach anybody.
    pub fn is_empty(&self) -> bool {
        self.email.is_empty() && self.slack.is_none() && self.whatsapp.is_empty()
    }

    /// These ways, and where one is missing, that of `other`.
    fn or(self, other: &Self) -> Self {
        Self {
            email: if self.email.is_empty() { other.email.clone() } else { self.email },
            slack: self.slack.or_else(|| other.slack.clone()),
            whatsapp: if self.whatsapp.is_empty() { other.whatsapp.clone() } else { self.whatsapp },
        }
    }
}

/// The look-up service does not answer, and never did for this namespace. It may pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the look-up of contacts failed: {0}")]
pub struct Unavailable(String);

impl Unavailable {
    fn resting() -> Self {
        Self("it failed a moment ago and is left alone".to_owned())
    }

    fn unasked() -> Self {
        Self("it has not been asked about this namespace lately, and is asked only to send".to_owned())
    }
}

/// `contacts`, `contacts_file` and `contacts_lookup`.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The list, in the order of the file.
    pub list: Vec<Contact>,
    /// The file beside it.
    pub file: Option<ContactsFile>,
    /// The service that is asked.
    pub lookup: Option<Lookup>,
}

impl Settings {
    /// Reads the three sections.
    pub fn decode(list: Option<&Node>, file: Option<&Node>, lookup: Option<&Node>, cx: &mut Context) -> Self {
        let list = list.and_then(|node| Vec::decode(node, cx)).unwrap_or_default();
        let file = file.and_then(|node| Located::decode(node, cx)).and_then(|path| ContactsFile::decode(&path, cx));
        let lookup = lookup.and_then(|node| Lookup::decode(node, cx));
        Self { list, file, lookup }
    }

    /// Whether there is a `*`, for those who have nobody.
    pub fn has_fallback(&self) -> bool {
        let of_file = self.file.iter().flat_map(|file| file.contacts.iter());
        self.list.iter().chain(of_file).any(Contact::is_fallback)
    }

    /// Whether nobody can ever be found.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty() && self.file.is_none() && self.lookup.is_none()
    }
}

/// How often the file is looked at for a change.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Who stands behind which namespace. One per relay.
pub struct Contacts {
    list: Book,
    file: Option<Watched>,
    service: Option<Asked>,
}

/// Who is asked about namespaces that list and file do not know.
enum Asked {
    Service(Arc<Service>),
    /// Nobody: everybody is found to be these.
    StandIn(Found),
}

impl std::fmt::Debug for Contacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contacts").finish_non_exhaustive()
    }
}

/// A contacts file, as it was when it was last good.
struct Watched {
    settings: ContactsFile,
    book: RwLock<Arc<Book>>,
}

impl Contacts {
    /// Contacts that reach the look-up service as far as `allow` permits; one that is asked as in `former` keeps what it answered. The
    /// file is followed as long as the contacts live. The error says why the service's HTTP client cannot be made.
    pub fn start(
        settings: Settings,
        allow: &[AllowTarget],
        clock: &Clock,
        announcer: Announcer,
        former: Option<&Self>,
    ) -> Result<Arc<Self>, String> {
        let service = |lookup: Lookup| {
            let policy = AddressPolicy::new(allow);
            if let Some(Asked::Service(known)) = former.and_then(|former| former.service.as_ref())
                && known.is_asked_by(&lookup, &policy)
            {
                return Ok(Asked::Service(known.clone()));
            }
            let fetch = Fetch::new(policy, &lookup.tls)?;
            Ok::<_, String>(Asked::Service(Arc::new(Service::new(lookup, fetch, clock.clone()))))
        };
        let service = settings.lookup.map(service).transpose()?;
        let contacts = Arc::new(Self { list: Book::new(settings.list), file: settings.file.map(Watched::new), service });
        if contacts.file.is_some() {
            tokio::spawn(follow(Arc::downgrade(&contacts), announcer));
        }
        Ok(contacts)
    }

    /// Contacts that ask nobody: whoever the look-up service would be asked about is found to be [`stand_in`]. The file is not followed.
    pub fn rehearsed(settings: Settings) -> Arc<Self> {
        let service = settings.lookup.map(|_| Asked::StandIn(stand_in()));
        Arc::new(Self { list: Book::new(settings.list), file: settings.file.map(Watched::new), service })
    }

    /// Who stands behind `namespace`. Waits for the look-up service a few seconds at most.
    pub async fn find(&self, namespace: Option<&str>) -> Result<Found, Unavailable> {
        let known = match (self.listed(namespace), namespace, &self.service) {
            (Some(known), ..) => known,
            (None, Some(namespace), Some(Asked::Service(service))) => service.find(namespace).await?,
            (None, Some(_), Some(Asked::StandIn(found))) => found.clone(),
            _ => Found::default(),
        };
        Ok(self.or_fallback(known))
    }

    /// The same as far as it is known without asking anybody: what the look-up service has lately answered counts.
    pub fn known(&self, namespace: Option<&str>) -> Result<Found, Unavailable> {
        let known = match (self.listed(namespace), namespace, &self.service) {
            (Some(known), ..) => known,
            (None, Some(namespace), Some(Asked::Service(service))) => service.known(namespace)?,
            (None, Some(_), Some(Asked::StandIn(found))) => found.clone(),
            _ => Found::default(),
        };
        Ok(self.or_fallback(known))
    }

    /// Whom the list or the file names for `namespace`.
    fn listed(&self, namespace: Option<&str>) -> Option<Found> {
        let of_file = |namespace: &str| self.file.as_ref()?.book().find(namespace).cloned();
        namespace.and_then(|it| self.list.find(it).cloned().or_else(|| of_file(it)))
    }

    /// `known`, and what it lacks from `*`.
    fn or_fallback(&self, known: Found) -> Found {
        if let Some(fallback) = self.list.fallback() {
            return known.or(fallback);
        }
        match self.file.as_ref().map(Watched::book).as_ref().and_then(|book| book.fallback()) {
            Some(fallback) => known.or(fallback),
            None => known,
        }
    }
}

/// Whom the look-up service is taken to name where it is not asked: addresses that reach nobody (RFC 2606), and a number kept for films.
pub fn stand_in() -> Found {
    Found {
        email: Mailbox::parse(STAND_IN.0).into_iter().collect(),
        slack: SlackUser::parse(STAND_IN.1),
        whatsapp: Number::parse(STAND_IN.2).into_iter().collect(),
    }
}

/// An address, a member and a number that are nobody's.
const STAND_IN: (&str, &str, &str) = ("stand-in@contacts-lookup.invalid", "U000STANDIN", "+15550100");

impl Watched {
    fn new(settings: ContactsFile) -> Self {
        let book = Book::new(settings.contacts.to_vec());
        Self { settings, book: RwLock::new(Arc::new(book)) }
    }

    fn book(&self) -> Arc<Book> {
        self.book.read().map_or_else(|poisoned| poisoned.into_inner().clone(), |book| book.clone())
    }

    fn replace(&self, book: Book) {
        match self.book.write() {
            Ok(mut held) => *held = Arc::new(book),
            Err(poisoned) => *poisoned.into_inner() = Arc::new(book),
        }
    }
}

/// Reads the file again whenever it changes; a bad one is told of once and changes nothing.
async fn follow(contacts: Weak<Contacts>, announcer: Announcer) {
    let mut seen = None;
    let mut told = None;
    loop {
        sleep(LOOK_EVERY).await;
        let Some(contacts) = contacts.upgrade() else { return };
        let Some(watched) = &contacts.file else { return };
        let path = watched.settings.path.clone();
        let before = seen.clone();
        let looked = tokio::task::spawn_blocking(move || look(&path, before)).await;
        let Ok(Some(looked)) = looked else { continue };
        seen = looked.seen;
        if told.as_ref() == Some(&looked.mark) {
            continue;
        }
        match looked.contacts {
            Ok(new) => {
                // The first look finds what was read with the configuration.
                if told.is_some() || new != **watched.settings.contacts {
                    tracing::info!(contacts = new.len(), "the contacts file was read anew");
                }
                watched.replace(Book::new(new));
            }
            Err(reason) => {
                let error = format!("{}: {reason}; the last good contacts stay", watched.settings.path.display());
                tracing::error!("{error}");
                announcer.tell(Notice::ConfigRejected { error });
            }
        }
        told = Some(looked.mark);
    }
}

/// What a look at the file found.
struct Looked {
    seen: Option<file::Seen>,
    contacts: Result<Vec<Contact>, String>,
    /// Tells two contents apart, and two errors.
    mark: Vec<u8>,
}

/// Reads the file at `path` unless it is as it was `before`.
fn look(path: &std::path::Path, before: Option<file::Seen>) -> Option<Looked> {
    let seen = file::Seen::of(path).ok();
    if seen.is_some() && seen == before {
        return None;
    }
    let text = file::read(path);
    let mark = text.as_ref().map_or_else(|reason| reason.clone().into_bytes(), |text| file::fingerprint(text).to_vec());
    let contacts = text.and_then(|text| file::parse(path, &text));
    Some(Looked { seen, contacts, mark })
}
