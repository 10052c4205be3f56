//! Whether a process of this machine still runs. Each that owns shards holds a name there which the system frees with the process,
//! however that ends: so its neighbours, and whoever is started in its place, need not wait for the lease of one that was killed.
//!
//! Nothing less would do. That a session with the database is over, or a lock in it is free, says only that the database has lost the
//! process, which may still be sending; and a folder or an address may be several processes'. Machines are told apart by their boot,
//! network namespace and name: what happens to a process of another one is not known here, and its lease is waited for.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The names that the owners of this process hold.
pub(super) struct Presence {
    /// Of the store, as part of each name.
    salt: u64,
    /// The machine; `None`: there are no such names here.
    place: Option<String>,
    held: Mutex<HashMap<u64, held::Name>>,
}

impl Presence {
    /// Of processes that share the store with this salt.
    pub(super) fn new(salt: u64) -> Self {
        Self { salt, place: held::place(), held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<u64, held::Name>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, owner: u64) -> String {
        format!("hookyard-{:016x}-{owner:016x}", self.salt)
    }

    /// The machine on which `owner`, who is in this process, can be seen to live; `None`: nobody sees it.
    pub(super) fn shows(&self, owner: u64) -> Option<&str> {
        let place = self.place.as_deref()?;
        if let Entry::Vacant(free) = self.held().entry(owner) {
            free.insert(held::take(&self.name(owner))?);
        }
        Some(place)
    }

    /// The machine this process is on.
    pub(super) fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }

    /// Whether the process of `owner`, which said that it is on this machine, has ended.
    pub(super) fn is_gone(&self, owner: u64) -> bool {
        !self.held().contains_key(&owner) && held::take(&self.name(owner)).is_some()
    }

    /// Lets go of every name: nothing is sent from here any more.
    pub(super) fn leave(&self) {
        self.held().clear();
    }
}

#[cfg(target_os = "linux")]
mod held {
    use std::os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    };

    /// An abstract socket: there is one of a name in a network namespace, and it goes with the last process that has it.
    pub(super) struct Name {
        _socket: UnixDatagram,
    }

    /// Takes the name; `None`: somebody has it, or it cannot be had.
    pub(super) fn take(name: &str) -> Option<Name> {
        let address = SocketAddr::from_abstract_name(name).ok()?;
        Some(Name { _socket: UnixDatagram::bind_addr(&address).ok()? })
    }

    /// This boot of this machine, and the network namespace that names are in.
    pub(super) fn place() -> Option<String> {
        let read = |path| std::fs::read_to_string(format!("/proc/{path}")).ok();
        let (boot, host) = (read("sys/kernel/random/boot_id")?, read("sys/kernel/hostname")?);
        let network = std::fs::read_link("/proc/self/ns/net").ok()?;
        Some(format!("{} {} {}", boot.trim(), network.to_str()?, host.trim()))
    }
}

#[cfg(not(target_os = "linux"))]
mod held {
    pub(super) struct Name;

    pub(super) fn take(_: &str) -> Option<Name> {
        None
    }

    pub(super) fn place() -> Option<String> {
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn one_that_holds_its_name_is_there_and_one_that_does_not_is_gone() {
        let salt = u64::from(std::process::id()) << 32 | 7;
        let (mine, neighbours, others) = (Presence::new(salt), Presence::new(salt), Presence::new(salt + 1));
        assert_eq!(mine.shows(1), neighbours.place());
        assert!(mine.place().is_some() && mine.shows(1).is_some(), "it goes on holding it");
        assert!(!neighbours.is_gone(1) && !mine.is_gone(1));
        assert!(neighbours.is_gone(2), "nobody ever held this");
        assert!(others.is_gone(1), "another store's");
        assert_eq!(neighbours.shows(1), None, "two have drawn the same: neither is judged by it");
        mine.leave();
        assert!(neighbours.is_gone(1));
        assert!(neighbours.shows(1).is_some(), "looking holds nothing");
    }
}
