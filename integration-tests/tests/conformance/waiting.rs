//! Who waits for another process sleeps in the kernel, which finds sleepers by
//! the memory that they sleep in; or hears that it cannot.
#![expect(unsafe_code, reason = "makes a mutex in a segment")]

use shm_common::{AsSharedBytes, Error};
use shm_sync::{Deadline, Locked, Mutex};

use crate::mechanism::Mechanism;
use crate::{Shared, child, hear, join, page};

pub(crate) fn a_lock_is_waited_for_or_cannot_be_made<M: Mechanism>() {
    let shared = Shared::<M>::new(page());
    let mapping = shared.map();
    // SAFETY: 1. the segment is this test's, which uses it only so. 2. It is
    // new. 3. No guard is leaked.
    let made = unsafe { Mutex::create(mapping.as_shared_bytes(), 0, 8) };
    if !M::HAS_FUTEXES {
        let refused = made.unwrap_err();
        assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
        return;
    }
    let mutex = made.unwrap();
    let guard = mutex.lock().unwrap();
    let waiter = hear(child(|link| {
        let mapping = shared.open();
        // SAFETY: 1. to 3. as above, and made above.
        let mutex = unsafe { Mutex::open(mapping.as_shared_bytes(), 0) };
        let mutex = mutex.unwrap();
        let soon = Deadline::after(std::time::Duration::from_millis(10));
        let late = mutex.lock_until(soon).unwrap_err();
        assert!(matches!(late, Error::TimedOut(_)), "{late}");
        link.send("waited in vain").unwrap();
        assert!(matches!(mutex.lock().unwrap(), Locked::Clean(_)));
    }));
    drop(guard);
    join(waiter);
}
