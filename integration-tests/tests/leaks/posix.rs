//! POSIX: what must not be left is a name, whichever way it came to be.

use std::fs::File;
use std::thread;
use std::time::Duration;

use integration_tests::alone::{alone, alone_as_root};
use integration_tests::leaks::{assert_none, prefix, unique_name};
use integration_tests::surroundings::{
    Refused, refuse, small_dev_shm, without_proc,
};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use shm_posix::{Error, Name, Segment, SegmentOptions, Size, reap};

use crate::{
    AtTheEnd, catch, leaves_nothing, panic_half_way,
    with_room_for_few_descriptors,
};

fn name() -> Name {
    Name::new(unique_name("leaks")).unwrap()
}

leaves_nothing! {
    fn creating_mapping_and_dropping_leaves_nothing() {
        let segment = Segment::create(&name(), Size::MIB).unwrap();
        let mapping = segment.map().unwrap();
        mapping.bytes().fill(7);
        drop(segment);
        drop(mapping);
    }

    fn opening_for_writing_and_for_reading_leaves_nothing() {
        let name = name();
        let _created = Segment::create(&name, Size::KIB).unwrap();
        let opened = Segment::open(&name).unwrap();
        opened.map().unwrap();
        opened.map_read_only().unwrap();
        Segment::open_read_only(&name).unwrap().map().unwrap();
        Segment::open_or_create(&name, Size::KIB).unwrap();
    }

    fn opening_what_is_not_there_leaves_nothing() {
        let error = Segment::open(&name()).unwrap_err();
        assert!(matches!(error, Error::NotFound(_)), "{error}");
    }

    fn opening_what_is_too_short_leaves_nothing() {
        let name = name();
        let _segment = Segment::create(&name, Size::KIB).unwrap();
        let error = Segment::open_or_create(&name, Size::MIB).unwrap_err();
        assert!(matches!(error, Error::WrongSize { .. }), "{error}");
    }

    fn opening_what_is_no_segment_leaves_nothing() {
        let name = name();
        let _guard = unlinked_at_the_end(&name);
        mkfifo(name.path(), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let error = Segment::open(&name).map(drop);
        assert!(matches!(error, Err(Error::WrongKind { .. })), "{error:?}");
    }

    fn opening_what_never_gets_a_size_leaves_nothing() {
        let name = name();
        let _guard = unlinked_at_the_end(&name);
        File::create(name.path()).map(drop).unwrap();
        let options = SegmentOptions::new().open_timeout(Duration::ZERO);
        let error = options.open(&name).map(drop);
        assert!(matches!(error, Err(Error::NotReady { .. })), "{error:?}");
    }

    fn creating_where_the_name_is_taken_leaves_nothing() {
        let name = name();
        let _first = Segment::create(&name, Size::KIB).unwrap();
        let error = Segment::create(&name, Size::MIB).unwrap_err();
        assert!(matches!(error, Error::AlreadyExists(_)), "{error}");
    }

    fn growing_and_refusing_to_shrink_leaves_nothing() {
        let mut segment = Segment::create(&name(), Size::KIB).unwrap();
        let before = segment.map().unwrap();
        segment.resize(Size::MIB).unwrap();
        let after = segment.map().unwrap();
        assert!(before.len() < after.len());
        let error = segment.resize(Size::KIB).unwrap_err();
        assert!(matches!(error, Error::InvalidSize { .. }), "{error}");
    }

    fn keeping_and_removing_leaves_nothing() {
        let name = name();
        let _guard = unlinked_at_the_end(&name);
        let mut segment = Segment::create(&name, Size::KIB).unwrap();
        segment.keep();
        drop(segment);
        let mut opened = Segment::open(&name).unwrap();
        opened.unlink().unwrap();
        opened.unlink().unwrap();
    }

    fn keeping_and_reaping_leaves_nothing() {
        let name = name();
        let _guard = unlinked_at_the_end(&name);
        let mut segment = Segment::create(&name, Size::KIB).unwrap();
        segment.keep();
        let in_use = reap(&prefix()).unwrap().in_use;
        assert_eq!(in_use, std::slice::from_ref(&name));
        drop(segment);
        let removed = reap(&prefix()).unwrap().removed;
        assert_eq!(removed, std::slice::from_ref(&name));
    }

    fn a_panic_half_way_leaves_nothing() {
        catch(|| {
            let segment = Segment::create(&name(), Size::KIB).unwrap();
            let _mapping = segment.map().unwrap();
            let _other = segment.map_read_only().unwrap();
            panic_half_way();
        });
    }

    also creating_opening_and_reaping_with_few_descriptors_leaves_nothing;
    also creating_where_the_name_comes_first_leaves_nothing;
    also creating_and_growing_where_there_is_no_space_leaves_nothing;
    also creating_where_there_is_no_proc_leaves_nothing;
}

fn creating_opening_and_reaping_with_few_descriptors_leaves_nothing() {
    alone(|| {
        with_room_for_few_descriptors(|| {
            Segment::create(&name(), Size::KIB)?.map()?;
            Ok(())
        });
        let name = name();
        let mut segment = Segment::create(&name, Size::KIB).unwrap();
        with_room_for_few_descriptors(|| {
            Segment::open(&name)?.map()?;
            Ok(())
        });
        with_room_for_few_descriptors(|| {
            let mut reaped = reap(&prefix())?;
            reaped.failed.pop().map_or(Ok(()), |(_, error)| Err(error))
        });
        segment.unlink().unwrap();
    });
}

fn creating_where_the_name_comes_first_leaves_nothing() {
    alone(|| {
        forbid_nameless_files();
        assert_none(|| {
            let name = name();
            let first = Segment::create(&name, Size::MIB).unwrap();
            first.map().unwrap();
            let error = Segment::create(&name, Size::MIB).unwrap_err();
            assert!(matches!(error, Error::AlreadyExists(_)), "{error}");
        });
        with_room_for_few_descriptors(|| {
            Segment::create(&name(), Size::KIB)?.map()?;
            Ok(())
        });
    });
}

fn creating_and_growing_where_there_is_no_space_leaves_nothing() {
    alone_as_root(|| {
        small_dev_shm(1 << 18).unwrap();
        let no_space = || {
            let name = name();
            let error = Segment::create(&name, Size::MIB).unwrap_err();
            assert!(matches!(error, Error::NoSpace { .. }), "{error}");
            let mut small = Segment::create(&name, Size::KIB).unwrap();
            let error = small.resize(Size::MIB).unwrap_err();
            assert!(matches!(error, Error::NoSpace { .. }), "{error}");
            assert_eq!(small.len(), 1024);
            let error = Segment::create(&name, Size::MIB).unwrap_err();
            assert!(matches!(error, Error::AlreadyExists(_)), "{error}");
        };
        assert_none(no_space);
        forbid_nameless_files();
        assert_none(no_space);
    });
}

fn creating_where_there_is_no_proc_leaves_nothing() {
    alone_as_root(|| {
        let name = name();
        let try_all = || {
            without_proc().unwrap();
            let segment = Segment::create(&name, Size::KIB).unwrap();
            segment.map().unwrap();
            assert!(name.path().exists());
            let error = Segment::create(&name, Size::KIB).unwrap_err();
            assert!(matches!(error, Error::AlreadyExists(_)), "{error}");
        };
        // In a thread, for the look needs /proc.
        assert_none(|| {
            thread::scope(|scope| scope.spawn(try_all).join().unwrap())
        });
    });
}

/// For what would stay if the test failed.
fn unlinked_at_the_end(name: &Name) -> AtTheEnd<impl FnMut()> {
    AtTheEnd(|| drop(name.unlink()))
}

/// From now on, like a file system without `O_TMPFILE`.
fn forbid_nameless_files() {
    let nameless = libc::O_TMPFILE.cast_unsigned();
    refuse(&Refused {
        call: libc::SYS_openat,
        argument: 2,
        mask: nameless,
        bits: nameless,
        errno: libc::EOPNOTSUPP,
    })
    .unwrap();
}
