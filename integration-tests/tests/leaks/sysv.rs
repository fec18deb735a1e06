//! System V: what must not be left is a segment in the table, or an attachment.

use integration_tests::alone::alone_as_root;
use integration_tests::leaks::{assert_none, unique_key};
use integration_tests::surroundings::{limit, system_v_limit};
use nix::sys::resource::{Resource, getrlimit};
use shm_sysv::{Error, HugePages, Id, Key, Segment, SegmentOptions, Size};

use crate::{AtTheEnd, catch, leaves_nothing, panic_half_way};

fn key() -> Key {
    Key::new(unique_key())
}

leaves_nothing! {
    fn creating_mapping_and_dropping_leaves_nothing() {
        let segment = Segment::create(key(), Size::MIB).unwrap();
        let mapping = segment.map().unwrap();
        mapping.bytes().fill(7);
        drop(segment);
        drop(mapping);
    }

    fn creating_one_that_the_last_detach_removes_leaves_nothing() {
        let options = SegmentOptions::new().remove_on_last_detach();
        let mut segment = options.create(Key::PRIVATE, Size::MIB).unwrap();
        segment.keep();
        Segment::open_id(segment.id()).unwrap().map().unwrap();
    }

    fn opening_for_writing_and_for_reading_leaves_nothing() {
        let key = key();
        let created = Segment::create(key, Size::KIB).unwrap();
        let opened = Segment::open(key).unwrap();
        opened.map().unwrap();
        opened.map_read_only().unwrap();
        Segment::open_read_only(key).unwrap().map().unwrap();
        Segment::open_id(created.id()).unwrap();
        Segment::open_id_read_only(created.id()).unwrap();
        Segment::open_or_create(key, Size::KIB).unwrap();
        assert_eq!(created.stat().unwrap().attachments, 2);
    }

    fn opening_what_is_not_there_leaves_nothing() {
        let error = Segment::open(key()).unwrap_err();
        assert!(matches!(error, Error::NotFound(_)), "{error}");
        let error = Segment::open_id(Id::new(i32::MAX).unwrap()).unwrap_err();
        assert!(matches!(error, Error::NotFound(_)), "{error}");
    }

    fn opening_what_is_too_short_leaves_nothing() {
        let key = key();
        let _segment = Segment::create(key, Size::KIB).unwrap();
        let error = Segment::open_or_create(key, Size::MIB).unwrap_err();
        assert!(matches!(error, Error::WrongSize { .. }), "{error}");
    }

    fn opening_without_addresses_to_attach_at_leaves_nothing() {
        let key = key();
        let segment = Segment::create(key, Size::KIB).unwrap();
        without_addresses(|| {
            let error = Segment::open(key).unwrap_err();
            assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
            let error = segment.map_read_only().unwrap_err();
            assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
        });
    }

    fn creating_where_the_key_is_taken_leaves_nothing() {
        let key = key();
        let _first = Segment::create(key, Size::KIB).unwrap();
        let error = Segment::create(key, Size::MIB).unwrap_err();
        assert!(matches!(error, Error::AlreadyExists(_)), "{error}");
    }

    /// The segment exists by then.
    fn creating_without_addresses_to_attach_at_leaves_nothing() {
        without_addresses(|| {
            let error = Segment::create(key(), Size::MIB).unwrap_err();
            assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
        });
    }

    fn creating_with_huge_pages_that_may_not_be_had_leaves_nothing() {
        for page in shm_sysv::PageSize::huge().unwrap() {
            let options =
                SegmentOptions::new().huge_pages(HugePages::Pool(page));
            // Whether there is one or not.
            let _ = options.create(key(), Size::KIB);
        }
    }

    fn keeping_and_removing_leaves_nothing() {
        let mut segment = Segment::create(key(), Size::KIB).unwrap();
        segment.keep();
        let id = segment.id();
        let _guard = AtTheEnd(|| drop(id.remove()));
        drop(segment);
        let mut opened = Segment::open_id(id).unwrap();
        opened.remove().unwrap();
        opened.remove().unwrap();
    }

    fn a_panic_half_way_leaves_nothing() {
        catch(|| {
            let segment = Segment::create(key(), Size::KIB).unwrap();
            let _mapping = segment.map().unwrap();
            let _other = segment.map_read_only().unwrap();
            panic_half_way();
        });
    }

    also creating_where_the_table_or_the_memory_is_full_leaves_nothing;
}

/// Runs `body` in a process that can map nothing more; what its heap has is
/// enough for errors.
fn without_addresses(body: impl FnOnce()) {
    let (enough, _) = getrlimit(Resource::RLIMIT_AS).unwrap();
    limit(Resource::RLIMIT_AS, 0).unwrap();
    body();
    limit(Resource::RLIMIT_AS, enough).unwrap();
}

fn creating_where_the_table_or_the_memory_is_full_leaves_nothing() {
    alone_as_root(|| {
        for name in ["shmmni", "shmall", "shmmax"] {
            system_v_limit(name, 0).unwrap();
            assert_none(|| {
                let error = Segment::create(key(), Size::MIB).unwrap_err();
                assert!(
                    matches!(error, Error::LimitReached(_)),
                    "{name}: {error}"
                );
            });
        }
    });
}
