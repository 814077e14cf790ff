//! The kernel cache's single flight under schedules that shuttle chooses: the source that ships, with shuttle's locks.

#[path = "../../src/cache/flight.rs"]
mod flight;

mod key {
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(crate) struct Digest(pub(crate) u8);
}

mod sync {
    pub(crate) use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard};
}

use std::sync::atomic::{AtomicUsize, Ordering};

use flight::{Role, SingleFlight};
use key::Digest;
use shuttle::thread;

/// Three threads want the same two keys, in different orders; `failures` times a leader fails. shuttle finds every thread that waits for ever.
fn story(failures: usize) {
    let flights = sync::Arc::new(SingleFlight::default());
    let left = sync::Arc::new(AtomicUsize::new(failures));
    let working: sync::Arc<[AtomicUsize; 2]> = sync::Arc::default();
    let threads: Vec<_> = (0..3u8)
        .map(|number| {
            let (flights, left, working) = (flights.clone(), left.clone(), working.clone());
            thread::spawn(move || {
                for key in [number % 2, 1 - number % 2] {
                    let bytes = loop {
                        match flights.join(Digest(key)) {
                            Role::Waited(bytes) => break bytes,
                            Role::Leader(lead) => {
                                let here = &working[usize::from(key)];
                                assert_eq!(
                                    here.fetch_add(1, Ordering::SeqCst),
                                    0,
                                    "one thread works on a key"
                                );
                                thread::yield_now();
                                here.fetch_sub(1, Ordering::SeqCst);
                                let fails = |left: usize| left.checked_sub(1);
                                if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails).is_ok() {
                                    // The leader fails: somebody takes over.
                                    drop(lead);
                                    continue;
                                }
                                let bytes: sync::Arc<[u8]> = [key; 3].into();
                                lead.finish(bytes.clone());
                                break bytes;
                            }
                        }
                    };
                    assert_eq!(*bytes, [key; 3], "everyone gets what was made for the key");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn one_thread_works_and_all_get_its_result_under_random_schedules() {
    for failures in 0..3 {
        shuttle::check_random(move || story(failures), 3000);
    }
}

#[test]
fn one_thread_works_and_all_get_its_result_under_schedules_of_few_preemptions() {
    for failures in 0..3 {
        shuttle::check_pct(move || story(failures), 3000, 3);
    }
}
