//! memfd: what must not be left is a descriptor, here or on its way.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};

use integration_tests::alone::alone;
use integration_tests::leaks::unique_name;
use shm_memfd::transfer::{self, MAX_DESCRIPTORS};
use shm_memfd::{
    Error, Frozen, HugePages, Label, Seals, Segment, SegmentOptions, Size,
};

use crate::{
    catch, leaves_nothing, panic_half_way, with_room_for_few_descriptors,
};

fn label() -> Label {
    Label::new(unique_name("leaks")).unwrap()
}

fn segment() -> Segment {
    Segment::create(&label(), Size::KIB).unwrap()
}

fn copy(fd: impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().unwrap()
}

leaves_nothing! {
    fn creating_mapping_and_dropping_leaves_nothing() {
        let segment = Segment::create(&label(), Size::MIB).unwrap();
        let mapping = segment.map().unwrap();
        mapping.bytes().fill(7);
        drop(segment);
        drop(mapping);
    }

    fn opening_for_writing_and_for_reading_leaves_nothing() {
        let created = segment();
        let opened = Segment::open(copy(&created)).unwrap();
        opened.map().unwrap();
        opened.map_read_only().unwrap();
        Segment::open_read_only(copy(&created)).unwrap().map().unwrap();
        created.to_read_only().unwrap().map().unwrap();
    }

    fn opening_descriptors_that_are_refused_leaves_nothing() {
        let file = File::open("/proc/self/exe").unwrap();
        let error = Segment::open(file).unwrap_err();
        assert!(matches!(error, Error::WrongKind { .. }), "{error}");
        let (socket, _) = UnixStream::pair().unwrap();
        let error = Segment::open(socket).unwrap_err();
        assert!(matches!(error, Error::WrongKind { .. }), "{error}");
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        let open = shm_memfd::raw::memfd_create(c"open", flags).unwrap();
        let error = Segment::open(copy(&open)).unwrap_err();
        assert!(matches!(error, Error::MissingSeals { .. }), "{error}");
        let error = Segment::open_read_only(open).unwrap_err();
        assert!(matches!(error, Error::MissingSeals { .. }), "{error}");
        let read_only = copy(segment().to_read_only().unwrap());
        let error = Segment::open(read_only).unwrap_err();
        assert!(matches!(error, Error::PermissionDenied(_)), "{error}");
        let error = Frozen::open(copy(segment())).unwrap_err();
        assert!(matches!(error, Error::MissingSeals { .. }), "{error}");
        let empty = shm_memfd::raw::memfd_create(c"empty", flags).unwrap();
        let shrink = libc::F_SEAL_SHRINK;
        shm_memfd::raw::fcntl_add_seals(empty.as_fd(), shrink).unwrap();
        let error = Segment::open(empty).unwrap_err();
        assert!(matches!(error, Error::InvalidSize { .. }), "{error}");
    }

    fn creating_with_huge_pages_that_may_not_be_had_leaves_nothing() {
        for page in shm_memfd::PageSize::huge().unwrap() {
            let options =
                SegmentOptions::new().huge_pages(HugePages::Pool(page));
            // Whether there is one or not.
            let _ = options.create(&label(), Size::KIB);
        }
    }

    fn growing_and_refusing_to_shrink_leaves_nothing() {
        let mut segment = segment();
        let before = segment.map().unwrap();
        segment.resize(Size::MIB).unwrap();
        let after = segment.map().unwrap();
        assert!(before.len() < after.len());
        let error = segment.resize(Size::KIB).unwrap_err();
        assert!(matches!(error, Error::InvalidSize { .. }), "{error}");
        segment.seal(Seals::GROW).unwrap();
        let error = segment.resize(Size::MIB.times(2).unwrap()).unwrap_err();
        assert!(matches!(error, Error::PermissionDenied(_)), "{error}");
    }

    fn freezing_and_failing_to_freeze_leaves_nothing() {
        let segment = segment();
        let mapping = segment.map().unwrap();
        let failed = segment.freeze().unwrap_err();
        assert!(matches!(failed.error, Error::Busy(_)), "{failed}");
        drop(mapping);
        let frozen = failed.segment.freeze().unwrap();
        let mapping = frozen.map().unwrap();
        assert_eq!(mapping.len(), 1024);
        Frozen::open(copy(&frozen)).unwrap().map().unwrap();
        let error = Segment::open(copy(&frozen)).unwrap_err();
        assert!(matches!(error, Error::PermissionDenied(_)), "{error}");
    }

    fn a_panic_half_way_leaves_nothing() {
        catch(|| {
            let segment = segment();
            let _mapping = segment.map().unwrap();
            let _copy = copy(&segment);
            panic_half_way();
        });
    }

    fn handing_over_one_and_as_many_as_possible_leaves_nothing() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let segment = segment();
        for count in [1, MAX_DESCRIPTORS] {
            let sent = vec![segment.as_fd(); count];
            transfer::send(&ours, b"!", &sent).unwrap();
            let message = transfer::receive(&theirs, &mut [0], count).unwrap();
            assert_eq!(message.descriptors.len(), count);
            for fd in message.descriptors {
                Segment::open(fd).unwrap().map().unwrap();
            }
        }
    }

    fn sending_more_than_possible_or_none_leaves_nothing() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let segment = segment();
        for count in [0, MAX_DESCRIPTORS + 1] {
            let sent = vec![segment.as_fd(); count];
            let error = transfer::send(&ours, b"!", &sent).unwrap_err();
            assert!(matches!(error, Error::InvalidDescriptorCount { .. }));
        }
    }

    fn sending_to_nobody_leaves_nothing() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let error = transfer::send(&ours, b"!", &[segment().as_fd()]);
        assert!(matches!(error, Err(Error::Disconnected(_))), "{error:?}");
    }

    fn receiving_more_than_wanted_leaves_nothing() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let segment = segment();
        for (count, max) in [(2, 1), (1, 0), (MAX_DESCRIPTORS, 7)] {
            let sent = vec![segment.as_fd(); count];
            transfer::send(&ours, b"!", &sent).unwrap();
            let error = transfer::receive(&theirs, &mut [0], max).unwrap_err();
            let expected = Error::DescriptorsTruncated { received: count, max };
            assert_eq!(error, expected);
        }
    }

    fn receiving_another_number_than_agreed_leaves_nothing() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let segment = segment();
        transfer::send(&ours, b"!", &[segment.as_fd(), ours.as_fd()]).unwrap();
        let message = transfer::receive(&theirs, &mut [0], 2).unwrap();
        let error = message.into_descriptors::<1>().unwrap_err();
        let expected =
            Error::WrongDescriptorCount { expected: 1, received: 2 };
        assert_eq!(error, expected);
        (&ours).write_all(b"!").unwrap();
        let message = transfer::receive(&theirs, &mut [0], 2).unwrap();
        message.into_descriptors::<1>().unwrap_err();
    }

    fn receiving_a_datagram_that_is_too_long_leaves_nothing() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        transfer::send(&ours, b"too long", &[segment().as_fd()]).unwrap();
        let error = transfer::receive(&theirs, &mut [0], 1).unwrap_err();
        assert_eq!(error, Error::MessageTruncated { capacity: 1 });
    }

    fn dropping_a_socket_with_descriptors_in_it_leaves_nothing() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let segment = segment();
        for _ in 0..3 {
            transfer::send(&ours, b"!", &[segment.as_fd()]).unwrap();
        }
        // A plain read drops them too.
        (&theirs).read_exact(&mut [0]).unwrap();
    }

    also creating_and_handing_over_with_few_descriptors_leaves_nothing;
}

fn creating_and_handing_over_with_few_descriptors_leaves_nothing() {
    alone(|| {
        with_room_for_few_descriptors(|| {
            Segment::create(&label(), Size::KIB)?.map()?;
            Ok(())
        });
        let segment = segment();
        with_room_for_few_descriptors(|| {
            segment.to_read_only()?.map()?;
            Ok(())
        });
        let (ours, theirs) = UnixStream::pair().unwrap();
        with_room_for_few_descriptors(|| {
            transfer::send(&ours, b"!", &[segment.as_fd(); 5])?;
            let message = transfer::receive(&theirs, &mut [0], 5)?;
            assert_eq!(message.descriptors.len(), 5);
            Ok(())
        });
    });
}
