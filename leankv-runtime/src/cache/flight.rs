//! Single flight: of several threads that want the same key, one works and the others wait for it.

use std::collections::HashMap;

use super::key::Digest;
use super::sync::{Arc, Condvar, Mutex, MutexGuard};

#[derive(Debug, Default)]
pub(super) struct SingleFlight {
    flights: Mutex<HashMap<Digest, Arc<Flight>>>,
}

#[derive(Debug, Default)]
struct Flight {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Working,
    Done(Arc<[u8]>),
    /// The leader failed or panicked: a waiter takes over.
    Abandoned,
}

pub(super) enum Role<'a> {
    /// This thread works; dropping the lead without finishing lets a waiter take over.
    Leader(Lead<'a>),
    /// Another thread worked and this is its result.
    Waited(Arc<[u8]>),
}

pub(super) struct Lead<'a> {
    owner: &'a SingleFlight,
    digest: Digest,
    flight: Arc<Flight>,
}

impl SingleFlight {
    /// Takes the lead for `digest`, or waits for the thread that has it.
    pub(super) fn join(&self, digest: Digest) -> Role<'_> {
        loop {
            let flight = {
                let mut flights = lock(&self.flights);
                match flights.get(&digest) {
                    Some(flight) => flight.clone(),
                    None => {
                        let flight = Arc::<Flight>::default();
                        flights.insert(digest, flight.clone());
                        return Role::Leader(Lead { owner: self, digest, flight });
                    }
                }
            };
            let mut state = lock(&flight.state);
            loop {
                match &*state {
                    State::Done(bytes) => return Role::Waited(bytes.clone()),
                    State::Abandoned => break,
                    State::Working => state = flight.changed.wait(state).unwrap_or_else(|e| e.into_inner()),
                }
            }
        }
    }
}

impl Lead<'_> {
    /// Hands the result to all waiters.
    pub(super) fn finish(self, bytes: Arc<[u8]>) {
        *lock(&self.flight.state) = State::Done(bytes);
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        // Out of the table first: a waiter that wakes to an abandoned flight must not find it there again.
        lock(&self.owner.flights).remove(&self.digest);
        let mut state = lock(&self.flight.state);
        if matches!(*state, State::Working) {
            *state = State::Abandoned;
        }
        self.flight.changed.notify_all();
    }
}

/// No code panics while holding these locks, so a poisoned one holds whole data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
