//! All created tokens: kept in the store, which every change reaches first, and held in memory, where they are looked for.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use serde_json::json;
use tokio::sync::watch;
use tracing::warn;

use super::{
    Caller, Scope, Scopes, Standing, Token,
    token::{self, Hash},
};
use crate::{
    clock::{Timestamp, earlier, rfc3339_ms, until},
    secret::Secret,
    sign,
    store::{self, AtMost, Change, Changed, NewAudit, Record, RecordKind, Store, Write},
};

/// Tokens kept at once, those that are over among them.
const TOKENS_MAX: u32 = 10_000;
/// How long a token that is over is still shown.
const OVER_KEPT: Duration = Duration::from_secs(30 * 86_400);
/// Longest name, in characters.
const NAME_MAX: usize = 100;
/// Most namespaces of a token.
const NAMESPACES_MAX: usize = 100;
/// Longest of them, in characters.
const NAMESPACE_MAX: usize = 256;
/// How coarsely it is kept when a token was used last.
const USED_EVERY: Duration = Duration::from_secs(300);
/// The settings under which that is kept: one for each token.
const USED: &str = "token.used.";
/// Whom all token records belong to.
const OWNER: &str = "";
/// How often a change is tried when somebody else makes one of the same token at the same moment.
const TRIES: usize = 3;

/// What a token is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// What it is called.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// The namespaces it is bound to. `None`: to none.
    pub namespaces: Option<BTreeSet<String>>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

/// Why a token was not made.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It cannot be as it is wanted; says why.
    #[error("{0}")]
    Unfit(String),
    /// It would be able to do more than its maker; says what.
    #[error("{0}")]
    Beyond(String),
    /// There are too many.
    #[error("there are {TOKENS_MAX} tokens already; those that are over go {} days later", OVER_KEPT.as_secs() / 86_400)]
    TooMany,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// All created tokens.
pub struct Tokens {
    store: Arc<dyn Store>,
    known: RwLock<Known>,
    used: Mutex<HashMap<String, Used>>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Known {
    by_id: BTreeMap<String, Kept>,
    by_hash: HashMap<Hash, String>,
    /// The newest revision that [`Tokens::refresh`] has seen.
    seen: i64,
}

#[derive(Clone)]
struct Kept {
    token: Arc<Token>,
    revision: i64,
}

/// When a token was used last, and what is kept of that.
#[derive(Clone, Copy)]
struct Used {
    at: Timestamp,
    kept: Option<Timestamp>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    /// Those that `store` keeps.
    ///
    /// # Errors
    /// The store's.
    pub async fn load(store: Arc<dyn Store>) -> store::Result<Arc<Self>> {
        let tokens = Self::none(store);
        tokens.refresh().await?;
        tokens.recall().await?;
        Ok(Arc::new(tokens))
    }

    /// None of those that `store` may keep.
    pub(crate) fn none(store: Arc<dyn Store>) -> Self {
        Self { store, known: RwLock::default(), used: Mutex::default(), changed: watch::Sender::new(()) }
    }

    /// Takes up what others have changed in the store since the last call: a change on one replica holds on another from then on.
    ///
    /// # Errors
    /// The store's.
    pub async fn refresh(&self) -> store::Result<()> {
        let seen = self.known.read().unwrap_or_else(PoisonError::into_inner).seen;
        let records = self.store.records(RecordKind::Token, seen).await?;
        if records.is_empty() {
            return Ok(());
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            known.seen = known.seen.max(record.revision);
            known.take(&record);
        }
        drop(known);
        self.changed.send_replace(());
        Ok(())
    }

    /// Changes whenever a token may have: for whoever is answered for so long that its token may end meanwhile.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Who shows `given` at `now`; that it was used is remembered. `None`: it is no token, or over.
    pub fn caller(&self, given: &[u8], now: Timestamp) -> Option<Caller> {
        if !given.starts_with(token::PREFIX.as_bytes()) {
            return None;
        }
        let token = self.of_hash(&token::hash(given)).filter(|token| token.standing(now) == Standing::Active)?;
        self.uses().entry(token.id.clone()).or_insert(Used { at: now, kept: None }).at = now;
        Some(token.caller())
    }

    /// Whoever shows the token `id`, if it is taken at `now`: for what was given out in its name.
    pub fn alive(&self, id: &str, now: Timestamp) -> Option<Caller> {
        let token = self.kept(id)?.token;
        (token.standing(now) == Standing::Active).then(|| token.caller())
    }

    /// All of them, newest first: also those that are over, for a while.
    pub fn list(&self) -> Vec<Arc<Token>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut tokens: Vec<_> = known.by_id.values().map(|kept| kept.token.clone()).collect();
        tokens.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        tokens
    }

    /// One of them.
    pub fn get(&self, id: &str) -> Option<Arc<Token>> {
        Some(self.kept(id)?.token)
    }

    /// When a token was used last, as far as this relay knows; after a restart up to five minutes too early.
    pub fn last_used(&self, id: &str) -> Option<Timestamp> {
        self.uses().get(id).map(|used| used.at)
    }

    /// Makes a token that may do no more than `by`. The secret is what is shown, once.
    ///
    /// # Errors
    /// [`Refused`]; then nothing has changed.
    pub async fn create(&self, wanted: Wanted, by: &Caller, now: Timestamp) -> Result<(Arc<Token>, Secret), Refused> {
        fit(&wanted, now).map_err(Refused::Unfit)?;
        within(&wanted, by).map_err(Refused::Beyond)?;
        let no_random = || store::Error::Backend("the system gives no random bytes".into());
        let secret = token::draw().ok_or_else(no_random)?;
        let Wanted { name, scopes, namespaces, expires_at } = wanted;
        let token = Token {
            id: token::draw_id().ok_or_else(no_random)?,
            name,
            scopes,
            namespaces,
            created_at: now,
            created_by: by.id.clone(),
            expires_at,
            revoked_at: None,
            revoked_by: None,
            hash: token::hash(secret.reveal().as_bytes()),
            more: serde_json::Map::new(),
        };
        let at_most = Some(AtMost { kind: RecordKind::Token, owner: OWNER.to_owned(), count: TOKENS_MAX });
        let audit = vec![entry(by, "token.created", None, &token, now)];
        match self.store.change(Change { writes: vec![put(&token, None)], at_most, audit }).await? {
            Changed::Done { revision } => Ok((self.hold(token, revision), secret)),
            Changed::TooMany => Err(Refused::TooMany),
            Changed::Conflict => Err(Refused::Store(store::Error::Backend("an id was drawn twice".into()))),
        }
    }

    /// Ends the token `id`: from now on it is not taken. One that is revoked already stays as it is. `None`: there is none.
    ///
    /// # Errors
    /// The store's; then nothing has changed.
    pub async fn revoke(&self, id: &str, by: &Caller, now: Timestamp) -> store::Result<Option<Arc<Token>>> {
        for _ in 0..TRIES {
            let Some(Kept { token, revision }) = self.kept(id) else { return Ok(None) };
            if token.revoked_at.is_some() {
                return Ok(Some(token));
            }
            let revoked = Token { revoked_at: Some(now), revoked_by: Some(by.id.clone()), ..(*token).clone() };
            let audit = vec![entry(by, "token.revoked", Some(&token), &revoked, now)];
            let change = Change { writes: vec![put(&revoked, Some(revision))], at_most: None, audit };
            match self.store.change(change).await? {
                Changed::Done { revision } => return Ok(Some(self.hold(revoked, revision))),
                Changed::Conflict | Changed::TooMany => self.refresh().await?,
            }
        }
        Err(store::Error::Backend("this token is changed by others at the same moment".into()))
    }

    /// Keeps when tokens were used last, coarsely, and forgets those that have been over for long. For housekeeping.
    ///
    /// # Errors
    /// The store's.
    pub async fn tidy(&self, now: Timestamp) -> store::Result<()> {
        self.keep_uses(USED_EVERY).await?;
        let old = |kept: &Kept| kept.token.over_since(now).is_some_and(|since| since <= earlier(now, OVER_KEPT));
        let over: Vec<Kept> = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            known.by_id.values().filter(|kept| old(kept)).cloned().collect()
        };
        for Kept { token, revision } in over {
            let remove = Write::Remove { kind: RecordKind::Token, id: token.id.clone(), expected: revision };
            // Where somebody else did so first, the next refresh shows it.
            if let Changed::Done { .. } = self.store.change(Change { writes: vec![remove], ..Change::default() }).await? {
                self.known.write().unwrap_or_else(PoisonError::into_inner).forget(&token.id);
            }
            self.uses().remove(&token.id);
            self.store.remove_setting(&format!("{USED}{}", token.id)).await?;
        }
        Ok(())
    }

    /// Keeps when tokens were used last, where that is later than what is kept by `more` at least.
    ///
    /// # Errors
    /// The store's.
    pub async fn keep_uses(&self, more: Duration) -> store::Result<()> {
        let is_new = |used: &Used| used.kept.is_none_or(|kept| more <= until(kept, used.at) && kept < used.at);
        let news: Vec<_> = self.uses().iter().filter(|(_, used)| is_new(used)).map(|(id, used)| (id.clone(), used.at)).collect();
        for (id, at) in news {
            self.store.set_setting(&format!("{USED}{id}"), rfc3339_ms(at)).await?;
            if let Some(used) = self.uses().get_mut(&id) {
                used.kept = Some(at);
            }
        }
        Ok(())
    }

    /// Reads when tokens were used last.
    async fn recall(&self) -> store::Result<()> {
        for (key, value) in self.store.settings(USED).await? {
            let (Some(id), Ok(at)) = (key.strip_prefix(USED), value.parse()) else { continue };
            self.uses().insert(id.to_owned(), Used { at, kept: Some(at) });
        }
        Ok(())
    }

    fn of_hash(&self, hash: &Hash) -> Option<Arc<Token>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let token = &known.by_id.get(known.by_hash.get(hash)?)?.token;
        // Finding it took time that tells of the hash at most, of which no token can be made.
        sign::same(&token.hash, hash).then(|| token.clone())
    }

    fn kept(&self, id: &str) -> Option<Kept> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).by_id.get(id).cloned()
    }

    /// What the store holds since a change of ours.
    fn hold(&self, token: Token, revision: i64) -> Arc<Token> {
        let token = Arc::new(token);
        let kept = Kept { token: token.clone(), revision };
        self.known.write().unwrap_or_else(PoisonError::into_inner).put(kept);
        self.changed.send_replace(());
        token
    }

    fn uses(&self) -> std::sync::MutexGuard<'_, HashMap<String, Used>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// What `record` says, where it is news.
    fn take(&mut self, record: &Record) {
        if self.by_id.get(&record.id).is_some_and(|kept| record.revision <= kept.revision) {
            return;
        }
        match &record.doc {
            None => self.forget(&record.id),
            Some(doc) => match Token::read(&record.id, doc) {
                Some(token) => self.put(Kept { token: Arc::new(token), revision: record.revision }),
                None => {
                    warn!(token.id = %record.id, "a token cannot be read as it is kept, and is not taken");
                    self.forget(&record.id);
                }
            },
        }
    }

    fn put(&mut self, kept: Kept) {
        // A refresh may have brought what is newer.
        if self.by_id.get(&kept.token.id).is_some_and(|held| kept.revision < held.revision) {
            return;
        }
        self.by_hash.insert(kept.token.hash, kept.token.id.clone());
        self.by_id.insert(kept.token.id.clone(), kept);
    }

    fn forget(&mut self, id: &str) {
        if let Some(kept) = self.by_id.remove(id) {
            self.by_hash.remove(&kept.token.hash);
        }
    }
}

/// Whether there can be such a token at all.
fn fit(wanted: &Wanted, now: Timestamp) -> Result<(), String> {
    let shown =
        |text: &str, most: usize| !text.trim().is_empty() && text.chars().count() <= most && !text.chars().any(char::is_control);
    if !shown(&wanted.name, NAME_MAX) {
        return Err(format!("`name` is needed: up to {NAME_MAX} characters that say what the token is for"));
    }
    if wanted.scopes.is_empty() {
        let words = Scope::ALL.map(|(_, word)| word).join(", ");
        return Err(format!("`scopes` is needed: some of {words}"));
    }
    if wanted.expires_at.is_some_and(|end| end <= now) {
        return Err("`expires_at` has passed already".to_owned());
    }
    let Some(namespaces) = &wanted.namespaces else { return Ok(()) };
    if namespaces.is_empty() || NAMESPACES_MAX < namespaces.len() {
        return Err(format!(
            "`namespaces` names 1 to {NAMESPACES_MAX} namespaces; leave it out for a token that is bound to none"
        ));
    }
    if namespaces.iter().any(|namespace| !shown(namespace, NAMESPACE_MAX)) {
        return Err(format!("a namespace has 1 to {NAMESPACE_MAX} characters"));
    }
    match [Scope::ConfigRead, Scope::ConfigWrite].into_iter().find(|scope| wanted.scopes.grant(*scope)) {
        Some(_) if wanted.scopes.grant(Scope::Admin) => Err("a token with `namespaces` cannot have the scope `admin`".to_owned()),
        Some(scope) => Err(format!("a token with `namespaces` cannot have the scope `{scope}`: the file is everybody's")),
        None => Ok(()),
    }
}

/// Whether it would be able to do no more than its maker.
fn within(wanted: &Wanted, by: &Caller) -> Result<(), String> {
    if let Some(scope) = wanted.scopes.iter().find(|scope| !by.scopes.cover(Scopes::from(*scope))) {
        return Err(format!("a token cannot give away the scope `{scope}`, which it does not have"));
    }
    match (&by.namespaces, &wanted.namespaces) {
        (Some(own), Some(wanted)) if wanted.is_subset(own) => Ok(()),
        (Some(_), _) => Err("a token that is bound to namespaces makes only tokens that are bound to some of them".to_owned()),
        (None, _) => Ok(()),
    }
}

fn put(token: &Token, expected: Option<i64>) -> Write {
    let (kind, id, owner) = (RecordKind::Token, token.id.clone(), OWNER.to_owned());
    Write::Put { kind, id, owner, doc: token.doc(), sealed: None, expected }
}

fn entry(by: &Caller, action: &str, before: Option<&Token>, after: &Token, at: Timestamp) -> NewAudit {
    NewAudit {
        at,
        who: by.id.clone(),
        action: action.to_owned(),
        subject: after.id.clone(),
        before: before.map(told),
        after: Some(told(after)),
    }
}

/// What the audit says of a token.
fn told(token: &Token) -> String {
    json!({
        "name": token.name,
        "scopes": token.scopes,
        "namespaces": token.namespaces,
        "expires_at": token.expires_at.map(rfc3339_ms),
        "revoked_at": token.revoked_at.map(rfc3339_ms),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Clock,
        store::{AuditFilter, sqlite},
    };

    struct Bench {
        clock: Clock,
        store: Arc<dyn Store>,
        _folder: tempfile::TempDir,
    }

    async fn bench() -> Bench {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::manual("2026-01-20T12:00:00Z"));
        let store = sqlite::open(&folder.path().join("store"), clock.clone()).await.unwrap();
        Bench { clock, store, _folder: folder }
    }

    fn wanted(scopes: &[&str]) -> Wanted {
        Wanted { name: "CI".into(), scopes: scopes.iter().map(|word| Scope::parse(word).unwrap()).collect(), ..Wanted::default() }
    }

    fn bound(scopes: &[&str], namespaces: &[&str]) -> Wanted {
        Wanted { namespaces: Some(namespaces.iter().map(ToString::to_string).collect()), ..wanted(scopes) }
    }

    impl Bench {
        async fn tokens(&self) -> Arc<Tokens> {
            Tokens::load(self.store.clone()).await.unwrap()
        }
    }

    #[tokio::test]
    async fn a_token_is_taken_until_it_ends_over_restarts_too() {
        let bench = bench().await;
        let (tokens, now) = (bench.tokens().await, bench.clock.now());
        let end = now + Duration::from_secs(60);
        let wanted = Wanted { expires_at: Some(end), ..bound(&["events:read"], &["user_123"]) };
        let (token, secret) = tokens.create(wanted, &Caller::bootstrap(), now).await.unwrap();
        let given = secret.reveal().as_bytes();
        for tokens in [tokens, bench.tokens().await] {
            let caller = tokens.caller(given, now).unwrap();
            assert_eq!((&caller.id, caller.sees(Some("user_123")), caller.sees(None)), (&token.id, true, false));
            assert_eq!(tokens.caller(given, end), None);
            assert_eq!((tokens.alive(&token.id, now).is_some(), tokens.alive(&token.id, end)), (true, None));
            for other in
                [&given[..given.len() - 1], b"", b"hy_", b"bootstrap", &[given, b"0"].concat(), &given.to_ascii_uppercase()]
            {
                assert_eq!(tokens.caller(other, now), None);
            }
        }
    }

    #[tokio::test]
    async fn whoever_revokes_a_token_ends_it_everywhere_after_a_refresh() {
        let bench = bench().await;
        let (here, there, now) = (bench.tokens().await, bench.tokens().await, bench.clock.now());
        let (token, secret) = here.create(wanted(&["admin"]), &Caller::bootstrap(), now).await.unwrap();
        assert_eq!(there.caller(secret.reveal().as_bytes(), now), None);
        there.refresh().await.unwrap();
        let caller = there.caller(secret.reveal().as_bytes(), now).unwrap();
        let revoked = here.revoke(&token.id, &caller, now).await.unwrap().unwrap();
        assert_eq!((revoked.revoked_by.as_deref(), here.caller(secret.reveal().as_bytes(), now)), (Some(&*caller.id), None));
        // The other one does not know yet, and meets the change of the first.
        assert_eq!(there.revoke(&token.id, &Caller::bootstrap(), now).await.unwrap(), Some(revoked));
        assert_eq!(there.caller(secret.reveal().as_bytes(), now), None);
        assert_eq!(here.revoke("tok_none", &caller, now).await.unwrap(), None);
        let entries = bench.store.audit(AuditFilter::default()).await.unwrap();
        let told: Vec<_> = entries.iter().map(|row| (row.entry.action.as_str(), row.entry.who.as_str())).collect();
        assert_eq!(told, [("token.revoked", caller.id.as_str()), ("token.created", "bootstrap")]);
        assert!(!format!("{entries:?}").contains(secret.reveal()));
    }

    #[tokio::test]
    async fn tokens_that_are_over_are_shown_for_a_while() {
        let bench = bench().await;
        let (tokens, now) = (bench.tokens().await, bench.clock.now());
        let (token, secret) = tokens.create(wanted(&["webhooks"]), &Caller::bootstrap(), now).await.unwrap();
        let (stays, _) = tokens.create(wanted(&["webhooks"]), &Caller::bootstrap(), now).await.unwrap();
        tokens.caller(secret.reveal().as_bytes(), now).unwrap();
        tokens.revoke(&token.id, &Caller::bootstrap(), now).await.unwrap();
        tokens.tidy(now + Duration::from_secs(29 * 86_400)).await.unwrap();
        assert_eq!(tokens.list().len(), 2);
        tokens.tidy(now + OVER_KEPT).await.unwrap();
        for tokens in [tokens, bench.tokens().await] {
            assert_eq!(tokens.list(), std::slice::from_ref(&stays));
            assert_eq!((tokens.get(&token.id), tokens.last_used(&token.id)), (None, None));
        }
    }

    #[tokio::test]
    async fn it_is_kept_coarsely_when_a_token_was_used_last() {
        let bench = bench().await;
        let (tokens, now) = (bench.tokens().await, bench.clock.now());
        let (token, secret) = tokens.create(wanted(&["webhooks"]), &Caller::bootstrap(), now).await.unwrap();
        assert_eq!(tokens.last_used(&token.id), None);
        for (after, kept) in [(0, 0), (299, 0), (300, 300), (301, 300)] {
            let at = now + Duration::from_secs(after);
            tokens.caller(secret.reveal().as_bytes(), at).unwrap();
            tokens.tidy(at).await.unwrap();
            assert_eq!(tokens.last_used(&token.id), Some(at));
            assert_eq!(bench.tokens().await.last_used(&token.id), Some(now + Duration::from_secs(kept)), "{after}");
        }
        tokens.keep_uses(Duration::ZERO).await.unwrap();
        assert_eq!(bench.tokens().await.last_used(&token.id), Some(now + Duration::from_secs(301)));
    }

    #[test]
    fn a_token_gives_away_no_more_than_it_has() {
        let maker = |scopes: &[&str], namespaces: Option<&[&str]>| Caller {
            scopes: wanted(scopes).scopes,
            namespaces: namespaces.map(|names| names.iter().map(ToString::to_string).collect()),
            ..Caller::bootstrap()
        };
        let admin = maker(&["admin"], None);
        for wanted in [wanted(&["admin"]), wanted(&["webhooks", "config:write"]), bound(&["webhooks"], &["a"])] {
            assert_eq!(within(&wanted, &admin), Ok(()));
        }
        let some = maker(&["webhooks", "events:read"], Some(&["a", "b"]));
        assert_eq!(within(&bound(&["webhooks:write"], &["a"]), &some), Ok(()));
        for beyond in [
            wanted(&["webhooks"]),
            bound(&["webhooks"], &["a", "c"]),
            bound(&["deliveries:read"], &["a"]),
            bound(&["events:read", "admin"], &["a"]),
        ] {
            assert!(within(&beyond, &some).is_err(), "{beyond:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let now = "2026-01-20T12:00:00Z".parse().unwrap();
        let unfit = [
            wanted(&[]),
            Wanted { name: " ".into(), ..wanted(&["admin"]) },
            Wanted { name: "a\u{7}".into(), ..wanted(&["admin"]) },
            Wanted { name: "a".repeat(101), ..wanted(&["admin"]) },
            Wanted { expires_at: Some(now), ..wanted(&["admin"]) },
            bound(&["webhooks"], &[]),
            bound(&["webhooks"], &[""]),
            bound(&["admin"], &["a"]),
            bound(&["webhooks", "config:read"], &["a"]),
            bound(&["config:write"], &["a"]),
        ];
        for unfit in unfit {
            assert!(fit(&unfit, now).is_err(), "{unfit:?}");
        }
        for fits in [wanted(&["admin"]), bound(&["webhooks", "events:read", "deliveries:write"], &["user_123", "*"])] {
            assert_eq!(fit(&fits, now), Ok(()), "{fits:?}");
        }
    }
}
