//! The servers of a store: asked one after the other, each address for a bounded time, and first the one that answered last. A server that
//! takes connections and says nothing (stopped, or cut off behind something that answers for it) holds nobody up: when an answer is long
//! in coming, it is asked over another connection whether it still works on it.

use std::{
    collections::HashSet,
    net::IpAddr,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    task::AbortHandle,
    time::{sleep, timeout},
};
use tokio_postgres::{
    Client, Config, Connection, SimpleQueryMessage, Socket,
    config::{Host, LoadBalanceHosts, TargetSessionAttrs},
};

use super::{
    connect::{AWAY, Outdated, unreached},
    tls::{Encrypted, Tls},
    url::{Place, port},
};
use crate::store::{Error, Result};

/// How long a server that was connected to may take until it can be asked something; besides what the URL grants the connecting itself.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long it may take to learn where a name leads,
const NAMED: Duration = Duration::from_secs(5);
/// and to how many addresses of it a connection is tried.
const ADDRESSES_MAX: usize = 8;
/// How long an answer is waited for until the server is asked whether it still works on it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to say so. Many wait at once: what it said is taken for what it would say now for half of [`PATIENCE`], which whoever
/// asks has waited for longer.
const ASKED: Duration = Duration::from_secs(5);

/// Where connections of one store lead.
pub(super) struct Servers {
    place: Place,
    tls: Tls,
    order: Mutex<Order>,
    /// What a server said last that was asked whether it still works.
    looked: tokio::sync::Mutex<Option<Looked>>,
    /// Since when the server of former connections says nothing any more.
    left: Outdated,
    /// [`PATIENCE`]; shorter in tests.
    pub(super) patience: Duration,
}

/// An address of a server: which one of the URL's, and of several that it has; `None` for a socket of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spot {
    host: usize,
    address: Option<IpAddr>,
}

/// Whom to ask first, and whom last.
#[derive(Debug, Default)]
struct Order {
    first: Option<Spot>,
    last: Option<Spot>,
}

impl Order {
    fn rank(&self, is: impl Fn(&Spot) -> bool) -> u8 {
        match (self.first.as_ref().is_some_and(&is), self.last.as_ref().is_some_and(&is)) {
            (true, _) => 0,
            (_, false) => 1,
            (_, true) => 2,
        }
    }
}

/// Where one connection leads.
pub(super) struct At {
    spot: Spot,
    /// For people.
    pub(super) name: String,
    config: Config,
}

struct Looked {
    spot: Spot,
    at: Instant,
    said: Said,
}

/// What a server said that was asked whether it still works.
enum Said {
    Nothing,
    /// That it is there.
    Something,
    /// That it works for these processes of its own.
    For(HashSet<i32>),
}

/// A connection that was made, and can be written over.
pub(super) struct Made {
    pub(super) client: Client,
    pub(super) connection: Connection<Socket, Encrypted<Socket>>,
    pub(super) at: Arc<At>,
}

impl Servers {
    /// Those of `place`.
    pub(super) fn new(place: Place, tls: Tls) -> Self {
        Self {
            place,
            tls,
            order: Mutex::default(),
            looked: tokio::sync::Mutex::default(),
            left: Outdated::default(),
            patience: PATIENCE,
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// A connection to the first of them that can be written to.
    ///
    /// # Errors
    /// [`Error::Full`] when there is none, with what each of them said.
    pub(super) async fn connect(&self) -> Result<Made> {
        let mut refused = Vec::new();
        for host in self.hosts() {
            let spots = match self.spots(host).await {
                Ok(spots) => spots,
                Err(error) => {
                    refused.push((self.name(host), error));
                    continue;
                }
            };
            for at in spots {
                match self.connect_to(&at).await {
                    Ok((client, connection)) => {
                        self.answered(at.spot);
                        return Ok(Made { client, connection, at: Arc::new(at) });
                    }
                    Err(error) => refused.push((at.name, error)),
                }
            }
        }
        Err(together(refused))
    }

    /// Whether the server `at` still works: for its process `pid`, where that is known. One that does not is asked last from now on, and
    /// no connection that was made before is used again.
    pub(super) async fn works(&self, at: &At, pid: Option<i32>) -> bool {
        let mut looked = self.looked.lock().await;
        let known = looked.take().filter(|it| it.spot == at.spot && it.at.elapsed() < self.patience / 2);
        let known = match known {
            Some(known) => known,
            None => Looked { spot: at.spot, said: self.look(at).await, at: Instant::now() },
        };
        let works = match &known.said {
            Said::Nothing => false,
            Said::Something => true,
            // Another server may have come to answer at its address.
            Said::For(pids) => pid.is_none_or(|pid| pids.contains(&pid)),
        };
        if !works && !self.left.is(known.at) {
            tracing::warn!("the database at {} gives no answer any more: its connections are given up", at.name);
            if matches!(known.said, Said::Nothing) {
                self.failed(at.spot);
            }
            self.left.are_now();
        }
        *looked = Some(known);
        works
    }

    /// Whether a connection that was made then is one to a server that said nothing any more.
    pub(super) fn are_left(&self, made: Instant) -> bool {
        self.left.is(made)
    }

    async fn look(&self, at: &At) -> Said {
        let asked = async {
            let mut config = at.config.clone();
            let (client, connection) = config.target_session_attrs(TargetSessionAttrs::Any).connect(self.tls.clone()).await?;
            let _driver = Driver::of(async { _ = connection.await });
            client.simple_query("SELECT pid FROM pg_stat_activity").await
        };
        match timeout(ASKED, asked).await {
            Ok(Ok(rows)) => Said::For(rows.iter().filter_map(pid).collect()),
            // It has no room for one more, say. One that starts or stops has ended what it was asked.
            Ok(Err(error)) if error.code().is_some_and(|code| !code.code().starts_with("57P")) => Said::Something,
            Ok(Err(_)) | Err(_) => Said::Nothing,
        }
    }

    async fn connect_to(&self, at: &At) -> Result<(Client, Connection<Socket, Encrypted<Socket>>)> {
        let bound = at.config.get_connect_timeout().copied().unwrap_or_default() + HANDSHAKE;
        match timeout(bound, at.config.connect(self.tls.clone())).await {
            Ok(made) => made.map_err(|error| unreached(&error)),
            Err(_) => Err(Error::Full(format!("{AWAY}it gave no answer within {} s", bound.as_secs()))),
        }
    }

    /// The servers, in the order in which they are to be asked.
    fn hosts(&self) -> Vec<usize> {
        let mut hosts: Vec<usize> = (0..self.place.config.get_hosts().len()).collect();
        self.shuffle(&mut hosts);
        let order = self.order();
        hosts.sort_by_key(|host| order.rank(|spot| spot.host == *host));
        hosts
    }

    /// The addresses of one, likewise.
    async fn spots(&self, host: usize) -> Result<Vec<At>> {
        let config = &self.place.config;
        let mut addresses = match (config.get_hostaddrs().get(host), config.get_hosts().get(host)) {
            (Some(address), _) => vec![Some(*address)],
            (None, Some(Host::Tcp(name))) => addresses(name).await?.into_iter().map(Some).collect(),
            (None, _) => vec![None],
        };
        self.shuffle(&mut addresses);
        let order = self.order();
        addresses.sort_by_key(|address| order.rank(|spot| *spot == Spot { host, address: *address }));
        Ok(addresses.into_iter().map(|address| self.at(Spot { host, address })).collect())
    }

    fn at(&self, spot: Spot) -> At {
        let all = &self.place.config;
        let (mut config, mut name) = (alone(all), self.name(spot.host));
        match all.get_hosts().get(spot.host) {
            Some(Host::Tcp(host)) => {
                config.host(host);
                if let Some(address) = spot.address.filter(|address| address.to_string() != *host) {
                    name = format!("{name} ({address})");
                }
            }
            #[cfg(unix)]
            Some(Host::Unix(path)) => _ = config.host_path(path),
            None => {}
        }
        if let Some(address) = spot.address {
            config.hostaddr(address);
        }
        config.port(port(all, spot.host));
        At { spot, name, config }
    }

    fn name(&self, host: usize) -> String {
        self.place.names().into_iter().nth(host).unwrap_or_default()
    }

    fn shuffle<T>(&self, all: &mut [T]) {
        if self.place.config.get_load_balance_hosts() == LoadBalanceHosts::Random {
            fastrand::shuffle(all);
        }
    }

    fn answered(&self, spot: Spot) {
        let mut order = self.order();
        order.first = Some(spot);
        order.last = order.last.filter(|last| *last != spot);
    }

    fn failed(&self, spot: Spot) {
        let mut order = self.order();
        order.first = order.first.filter(|first| *first != spot);
        order.last = Some(spot);
    }

    fn order(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Made {
    /// Its client. Whatever that waits for, it waits no longer than the server works: the connection is looked after, and ends with it.
    pub(super) fn watched(self, servers: &Arc<Servers>) -> Client {
        let Self { client, connection, at } = self;
        let servers = servers.clone();
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            loop {
                tokio::select! {
                    biased;
                    _ = connection.as_mut() => return,
                    () = sleep(servers.patience) => {}
                }
                tokio::select! {
                    biased;
                    _ = connection.as_mut() => return,
                    works = servers.works(&at, None) => if !works { return },
                }
            }
        });
        client
    }
}

/// What moves the bytes of a connection, as long as this is kept.
pub(super) struct Driver(AbortHandle);

impl Driver {
    pub(super) fn of(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task).abort_handle())
    }

    /// Ends the connection: whoever waits for an answer learns that none will come.
    pub(super) fn cut(&self) {
        self.0.abort();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.cut();
    }
}

/// The first cell of a row, where it is the number of a process of the server's.
pub(super) fn pid(message: &SimpleQueryMessage) -> Option<i32> {
    match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    }
}

/// Where `name` leads.
async fn addresses(name: &str) -> Result<Vec<IpAddr>> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    let found = match timeout(NAMED, tokio::net::lookup_host((name, 0))).await {
        Ok(found) => found.map_err(|error| Error::Full(format!("{AWAY}{error}")))?,
        Err(_) => return Err(Error::Full(format!("{AWAY}its address was not found within {} s", NAMED.as_secs()))),
    };
    let mut all: Vec<IpAddr> = Vec::new();
    for address in found.map(|it| it.ip()) {
        if all.len() < ADDRESSES_MAX && !all.contains(&address) {
            all.push(address);
        }
    }
    if all.is_empty() { Err(Error::Full(format!("{AWAY}it has no address"))) } else { Ok(all) }
}

/// All that `config` says, but for the servers.
fn alone(config: &Config) -> Config {
    let mut one = Config::new();
    if let Some(user) = config.get_user() {
        one.user(user);
    }
    if let Some(password) = config.get_password() {
        one.password(password);
    }
    if let Some(name) = config.get_dbname() {
        one.dbname(name);
    }
    if let Some(options) = config.get_options() {
        one.options(options);
    }
    if let Some(name) = config.get_application_name() {
        one.application_name(name);
    }
    if let Some(bound) = config.get_connect_timeout() {
        one.connect_timeout(*bound);
    }
    if let Some(bound) = config.get_tcp_user_timeout() {
        one.tcp_user_timeout(*bound);
    }
    if let Some(pause) = config.get_keepalives_interval() {
        one.keepalives_interval(pause);
    }
    if let Some(times) = config.get_keepalives_retries() {
        one.keepalives_retries(times);
    }
    one.keepalives(config.get_keepalives()).keepalives_idle(config.get_keepalives_idle());
    one.ssl_mode(config.get_ssl_mode()).ssl_negotiation(config.get_ssl_negotiation());
    one.channel_binding(config.get_channel_binding()).target_session_attrs(config.get_target_session_attrs());
    one
}

/// What all of them said comes to.
fn together(mut refused: Vec<(String, Error)>) -> Error {
    if refused.len() == 1
        && let Some((_, error)) = refused.pop()
    {
        return error;
    }
    let faults = refused.iter().all(|(_, error)| matches!(error, Error::Backend(_)));
    let said = |(name, error): &(String, Error)| match error {
        Error::Full(why) => format!("{name}: {}", why.strip_prefix(AWAY).unwrap_or(why)),
        Error::Backend(why) => format!("{name}: {why}"),
        other => format!("{name}: {other}"),
    };
    let said = refused.iter().map(said).collect::<Vec<_>>().join("; ");
    if faults { Error::Backend(said.into()) } else { Error::Full(format!("{AWAY}{said}")) }
}

#[cfg(test)]
mod tests {
    use super::{super::url::parse, *};

    fn servers(url: &str) -> Servers {
        let place = parse(url).unwrap();
        let tls = Tls::new(&place).unwrap();
        Servers::new(place, tls)
    }

    #[test]
    fn the_one_that_answered_is_asked_first_and_the_one_that_says_nothing_last() {
        let servers = servers("postgres://127.0.0.1:1,127.0.0.2:2,127.0.0.3:3/db");
        let spot = |host| Spot { host, address: None };
        assert_eq!(servers.hosts(), [0, 1, 2]);
        servers.answered(spot(1));
        assert_eq!(servers.hosts(), [1, 0, 2]);
        servers.failed(spot(1));
        assert_eq!(servers.hosts(), [0, 2, 1]);
        servers.answered(spot(2));
        assert_eq!(servers.hosts(), [2, 0, 1]);
        servers.answered(spot(1));
        assert_eq!(servers.hosts(), [1, 0, 2], "it is back");
    }

    #[tokio::test]
    async fn each_is_asked_alone_and_with_all_that_the_url_says() {
        let servers = servers(
            "postgres://me:hush@one:1,two:2/db?hostaddr=127.0.0.1,127.0.0.2&sslmode=require&connect_timeout=7&options=-cx%3Dy&application_name=mine",
        );
        let [at] = servers.spots(1).await.unwrap().try_into().ok().unwrap();
        let all = &servers.place.config;
        assert_eq!(at.name, "two:2 (127.0.0.2)");
        assert_eq!(at.config.get_hosts(), &all.get_hosts()[1..]);
        assert_eq!((at.config.get_hostaddrs(), at.config.get_ports()), (&all.get_hostaddrs()[1..], &[2][..]));
        // All others are shown alike, the password apart; what no server has is left out of both.
        let shown = |config: &Config| {
            let text = format!("{config:?}");
            let servers = ["host: ", "hostaddr: ", "port: "].map(|name| text.find(name).unwrap());
            let end = |from: usize| from + text[from..].find(']').unwrap();
            let mut rest = text.clone();
            for from in servers.into_iter().rev() {
                rest.replace_range(from..=end(from), "");
            }
            rest
        };
        assert_eq!(shown(&at.config), shown(all));
        assert_eq!(at.config.get_password(), all.get_password());
    }

    #[test]
    fn what_they_said_is_told_of_each() {
        let away = |why: &str| Error::Full(format!("{AWAY}{why}"));
        let one = together(vec![("one:1".into(), away("refused"))]);
        assert_eq!(one.to_string(), away("refused").to_string());
        let both = together(vec![("one:1".into(), away("refused")), ("two:2".into(), Error::Backend("no".into()))]);
        let Error::Full(said) = both else { panic!("{both:?}") };
        assert_eq!(said, "the database cannot be reached: one:1: refused; two:2: no");
    }
}
