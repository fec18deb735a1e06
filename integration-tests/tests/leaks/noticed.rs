//! The look itself: it notices a leak of each kind, or everything else here
//! proves nothing.

use std::mem::forget;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::Path;

use integration_tests::alone::alone;
use integration_tests::leaks::{assert_none, unique_key, unique_name};
use shm_common::Size;

use crate::AtTheEnd;

crate::tests! {
    a_descriptor_that_is_left_open_is_noticed
    a_descriptor_that_is_closed_too_much_is_noticed
    a_mapping_that_is_left_is_noticed
    a_name_that_is_left_is_noticed
    a_system_v_segment_that_is_left_is_noticed
}

/// Checks that `scenario` fails the look, with a line that holds `what`.
pub(crate) fn assert_noticed(scenario: impl FnOnce(), what: &str) {
    let hook = panic::take_hook();
    // It is meant to panic, so it need not be told.
    panic::set_hook(Box::new(|_| {}));
    let looked = catch_unwind(AssertUnwindSafe(|| assert_none(scenario)));
    panic::set_hook(hook);
    let said = *looked.unwrap_err().downcast::<String>().unwrap();
    assert!(said.contains(what), "{what} is not in: {said}");
}

fn memfd() -> (shm_memfd::Segment, String) {
    let label = unique_name("noticed").parse().unwrap();
    let segment = shm_memfd::Segment::create(&label, Size::KIB).unwrap();
    (segment, format!("/memfd:{label}"))
}

fn a_descriptor_that_is_left_open_is_noticed() {
    alone(|| {
        let (segment, file) = memfd();
        let copy = || segment.to_read_only().map(forget).unwrap();
        assert_noticed(copy, &format!(": {file}"));
        assert_none(|| {});
    });
}

fn a_descriptor_that_is_closed_too_much_is_noticed() {
    alone(|| {
        let (segment, file) = memfd();
        assert_noticed(|| drop(segment), &file);
    });
}

fn a_mapping_that_is_left_is_noticed() {
    alone(|| {
        let (segment, memfd) = memfd();
        assert_noticed(|| forget(segment.map().unwrap()), &memfd);

        let name: shm_posix::Name = unique_name("noticed").parse().unwrap();
        let nameless = Path::new("/dev/shm/#");
        let created = shm_posix::Segment::create(&name, Size::KIB).unwrap();
        // Until it is opened by its name, the kernel shows it without.
        let opened = shm_posix::Segment::open(&name).unwrap();
        for (posix, shown) in [(opened, name.path()), (created, nameless)] {
            let shown = shown.to_str().unwrap();
            assert_noticed(|| forget(posix.map_read_only().unwrap()), shown);
        }

        let key = shm_sysv::Key::new(unique_key());
        let sysv = shm_sysv::Segment::create(key, Size::KIB).unwrap();
        let attached = || forget(sysv.map_read_only().unwrap());
        assert_noticed(attached, &format!("/SYSV{:08x}", key.as_raw()));
    });
}

fn a_name_that_is_left_is_noticed() {
    alone(|| {
        let name: shm_posix::Name = unique_name("noticed").parse().unwrap();
        let tail = &name.to_string()[1..];
        let leave = || {
            shm_posix::Segment::create(&name, Size::KIB).unwrap().keep();
        };
        let _guard = AtTheEnd(|| drop(name.unlink()));
        assert_noticed(leave, &format!("name {tail}"));
    });
}

fn a_system_v_segment_that_is_left_is_noticed() {
    alone(|| {
        let key = shm_sysv::Key::new(unique_key());
        let leave = || {
            shm_sysv::Segment::create(key, Size::KIB).unwrap().keep();
        };
        let _guard = AtTheEnd(|| {
            let left = shm_sysv::Segment::open(key);
            drop(left.and_then(|mut segment| segment.remove()));
        });
        assert_noticed(leave, "segment ");
    });
}
