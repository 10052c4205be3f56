//! The threads that lanes work on: apart from those that answer requests. Who sends in as much as the relay can take leaves deliveries
//! their share of the machine, and the other way round; and the few threads of each side do not take tasks from one another, which costs
//! more than it brings where there are more threads than processors (several relays on a machine, a database beside them). What both
//! need (the lease, how a lane stands, what is decided under the lock of the store) may be answered over a connection of either.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};

/// What the threads are called, in the tools of the system.
const NAME: &str = "deliver";

/// A runtime of their own; it ends, with whatever still runs on it, when this is dropped. Nobody waits for that.
pub(super) struct Threads {
    own: Option<Runtime>,
    handle: Handle,
}

impl Threads {
    /// Half as many as answer requests, at least one. None beside a runtime that has but the thread it is run by: all work there.
    ///
    /// # Errors
    /// What the system says where it gives no means of waiting for connections.
    pub(super) fn start() -> io::Result<Self> {
        let here = Handle::current();
        if here.runtime_flavor() == RuntimeFlavor::CurrentThread {
            return Ok(Self { own: None, handle: here });
        }
        let count = (here.metrics().num_workers() / 2).max(1);
        let own = Builder::new_multi_thread().worker_threads(count).thread_name(NAME).enable_all().build()?;
        Ok(Self { handle: own.handle().clone(), own: Some(own) })
    }

    /// Where lanes are begun.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Whoever drops it may be a task, which must not wait.
        if let Some(own) = self.own.take() {
            own.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn thread(threads: &Threads) -> String {
        let name = threads.handle().spawn(async { std::thread::current().name().unwrap_or_default().to_owned() });
        name.await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn work_is_done_apart_from_what_answers_requests() {
        let threads = Threads::start().unwrap();
        assert_eq!(thread(&threads).await, NAME);
        assert_eq!(threads.handle().metrics().num_workers(), 1);
    }

    #[tokio::test]
    async fn a_runtime_of_one_thread_does_everything() {
        let threads = Threads::start().unwrap();
        assert_ne!(thread(&threads).await, NAME);
        assert_eq!(threads.handle().id(), Handle::current().id());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_still_runs_ends_with_them_and_nobody_waits_for_it() {
        let threads = Threads::start().unwrap();
        let endless = threads.handle().spawn(std::future::pending::<()>());
        drop(threads);
        assert!(endless.await.unwrap_err().is_cancelled());
    }
}
