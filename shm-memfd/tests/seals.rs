//! What each seal forbids, to whom, and how it is told; and that frozen bytes
//! are bytes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use integration_tests::alone::{alone, alone_as_root};
use integration_tests::leaks::assert_none;
use integration_tests::peer::{DEADLINE, Peer};
use integration_tests::surroundings::{Refused, limit, refuse};
use nix::sys::resource::Resource;
use shm_common::AsSharedBytes;
use shm_memfd::{
    Error, Frozen, FrozenMapping, Label, Seals, Segment, Size, raw,
};

fn segment() -> Segment {
    Segment::create(&Label::new("seals").unwrap(), Size::KIB).unwrap()
}

/// Holds `text`, and cannot change any more.
fn frozen(text: &[u8]) -> Frozen {
    let segment = segment();
    segment.map().unwrap().bytes().write_at(0, text).unwrap();
    segment.freeze().unwrap()
}

/// Opened anew by its entry in /proc, as a receiver may.
fn reopened(fd: impl AsFd, write: bool) -> std::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let file = File::options().read(true).write(write).open(path)?;
    Ok(file.into())
}

#[test]
fn every_segment_is_sealed_against_shrinking_from_the_beginning() {
    let seals = segment().seals().unwrap();
    assert!(seals.contains(Seals::SHRINK), "{seals:?}");
    // Where the kernel knows it.
    let known = raw::memfd_create(c"probe", libc::MFD_NOEXEC_SEAL).is_ok();
    assert_eq!(seals.contains(Seals::EXEC), known, "{seals:?}");
    let rest = Seals::WRITE | Seals::GROW | Seals::SEAL | Seals::FUTURE_WRITE;
    assert!(!seals.intersects(rest), "{seals:?}");
}

#[test]
fn grow_forbids_to_grow() {
    let mut segment = segment();
    segment.seal(Seals::GROW).unwrap();
    let error = segment.resize(Size::MIB).unwrap_err();
    assert!(matches!(error, Error::PermissionDenied(_)), "{error:?}");
    assert_eq!(segment.stat().unwrap().len, 1024);
    assert_eq!(segment.len(), 1024);
    segment.resize(Size::KIB).unwrap();
}

#[test]
fn seal_forbids_further_seals() {
    let segment = segment();
    segment.seal(Seals::SEAL).unwrap();
    let error = segment.seal(Seals::GROW).unwrap_err();
    assert!(matches!(error, Error::PermissionDenied(_)), "{error:?}");
    let failed = segment.freeze().unwrap_err();
    assert!(matches!(failed.error, Error::PermissionDenied(_)), "{failed:?}");
    failed.segment.map().unwrap();
}

#[test]
fn write_forbids_to_map_for_writing_and_not_for_reading() {
    let segment = segment();
    segment.map().unwrap().bytes().write_at(0, b"last").unwrap();
    segment.seal(Seals::WRITE).unwrap();
    let error = segment.map().unwrap_err();
    assert!(matches!(error, Error::PermissionDenied(_)), "{error:?}");
    let mapping = segment.map_read_only().unwrap();
    assert_eq!(mapping.bytes().get(0), Ok(*b"last"));
    let written = nix::unistd::write(&segment, b"never");
    assert_eq!(written, Err(nix::errno::Errno::EPERM));
}

#[test]
fn future_write_leaves_existing_mappings_and_forbids_new_ones() {
    let segment = segment();
    let writer = segment.map().unwrap();
    segment.seal(Seals::FUTURE_WRITE).unwrap();
    writer.bytes().write_at(0, b"still").unwrap();
    let error = segment.map().unwrap_err();
    assert!(matches!(error, Error::PermissionDenied(_)), "{error:?}");
    let reader = segment.map_read_only().unwrap();
    assert_eq!(reader.bytes().get(0), Ok(*b"still"));
}

#[test]
fn a_read_only_descriptor_can_be_opened_for_writing_unless_it_is_sealed() {
    let segment = segment();
    let _writer = segment.map().unwrap();
    let handed = segment.to_read_only().unwrap();
    let upgraded = reopened(&handed, true).unwrap();
    Segment::open(upgraded).unwrap().map().unwrap();

    segment.seal(Seals::FUTURE_WRITE).unwrap();
    let upgraded = reopened(&handed, true).unwrap();
    let error = Segment::open(upgraded).unwrap_err();
    assert!(matches!(error, Error::PermissionDenied(_)), "{error:?}");
}

#[test]
fn a_seal_that_the_kernel_does_not_know_is_an_error() {
    let error = segment().seal(Seals::from_bits(1 << 20)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn frozen_bytes_are_a_slice_and_outlive_their_handle() {
    let frozen = frozen(b"for ever");
    let seals = frozen.seals().unwrap();
    let all = Seals::WRITE | Seals::SHRINK | Seals::GROW | Seals::SEAL;
    assert!(seals.contains(all), "{seals:?}");
    assert_eq!(frozen.stat().unwrap().len, 1024);
    let mapping = frozen.map().unwrap();
    drop(frozen);
    assert_eq!(mapping.len(), 1024);
    assert!(mapping.starts_with(b"for ever"));
    assert_eq!(mapping.as_ref(), mapping.as_shared_bytes().to_vec());
}

#[test]
fn freezing_is_refused_while_somebody_could_still_write() {
    let busy = |segment: Segment| {
        let failed = segment.freeze().unwrap_err();
        assert!(matches!(failed.error, Error::Busy(_)), "{failed:?}");
        assert!(failed.to_string().contains("mapped through"), "{failed}");
        failed.segment
    };
    let segment = segment();
    let writer = segment.map().unwrap();
    let segment = busy(segment);
    writer.bytes().write_at(0, b"late").unwrap();
    drop(writer);
    // Its descriptor can write, so the kernel counts it as if it did.
    let reader = segment.map_read_only().unwrap();
    let segment = busy(segment);
    drop(reader);
    // In another process.
    let mut peer = Peer::fork(|link| {
        let mapping = segment.map().map_err(|error| error.to_string())?;
        link.send("mapped").map_err(|error| error.to_string())?;
        link.receive().map_err(|error| error.to_string())?;
        drop(mapping);
        Ok::<_, String>("")
    })
    .unwrap();
    peer.receive().unwrap();
    let segment = busy(segment);
    peer.send("go").unwrap();
    peer.join(DEADLINE).unwrap();
    // Through a descriptor that cannot write nobody is in the way.
    let reader = segment.to_read_only().unwrap().map().unwrap();
    let frozen = segment.freeze().unwrap();
    assert!(frozen.map().unwrap().starts_with(b"late"));
    assert_eq!(reader.bytes().get(0), Ok(*b"late"));
}

#[test]
fn what_is_not_frozen_is_refused_and_closed() {
    alone(|| {
        let with = |seals: i32, size: i64| {
            let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
            let fd = raw::memfd_create(c"half", flags).unwrap();
            raw::ftruncate(fd.as_fd(), size).unwrap();
            raw::fcntl_add_seals(fd.as_fd(), seals).unwrap();
            fd
        };
        assert_none(|| {
            for seals in [0, libc::F_SEAL_SHRINK, libc::F_SEAL_WRITE] {
                let error = Frozen::open(with(seals, 8)).unwrap_err();
                let Error::MissingSeals { required, present, .. } = error
                else {
                    panic!("{error:?}");
                };
                assert_eq!(required, Frozen::SEALS.bits());
                assert_eq!(present, seals.cast_unsigned());
            }
            let empty = libc::F_SEAL_SHRINK | libc::F_SEAL_WRITE;
            let error = Frozen::open(with(empty, 0)).unwrap_err();
            assert!(matches!(error, Error::InvalidSize { .. }), "{error:?}");
            let kinds: [OwnedFd; 4] = [
                std::io::pipe().unwrap().0.into(),
                UnixStream::pair().unwrap().0.into(),
                File::open("/dev/null").unwrap().into(),
                File::open("/proc/self/exe").unwrap().into(),
            ];
            for fd in kinds {
                let error = Frozen::open(fd).unwrap_err();
                assert!(matches!(error, Error::WrongKind { .. }), "{error:?}");
            }
        });
    });
}

#[test]
fn a_descriptor_that_only_names_the_file_is_refused() {
    use nix::fcntl::{OFlag, open};
    use nix::sys::stat::Mode;
    let frozen = frozen(b"x");
    let path = format!("/proc/self/fd/{}", frozen.as_fd().as_raw_fd());
    let named = || open(path.as_str(), OFlag::O_PATH, Mode::empty()).unwrap();
    let errors = [
        Frozen::open(named()).unwrap_err(),
        Segment::open(named()).unwrap_err(),
        Segment::open_read_only(named()).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::PermissionDenied(_)), "{error:?}");
        assert!(error.to_string().contains("O_PATH"), "{error}");
    }
}

#[test]
fn another_user_who_is_handed_frozen_bytes_reads_them() {
    alone_as_root(|| {
        let frozen = frozen(b"public");
        let peer = Peer::fork_as(65_534, |_| {
            let theirs = Frozen::open(frozen.try_clone()?)?;
            Ok::<_, Error>(theirs.map()?[..6].to_vec())
        });
        let read = peer.unwrap().unwrap().join(DEADLINE).unwrap();
        assert_eq!(read, b"public");
    });
}

#[test]
fn a_clone_is_the_same_segment_by_a_descriptor_of_its_own() {
    let segment = segment();
    let clone = segment.try_clone().unwrap();
    segment.map().unwrap().bytes().write_at(0, b"one").unwrap();
    assert_eq!(clone.map().unwrap().bytes().get(0), Ok(*b"one"));
    let (one, other) = (segment.stat().unwrap(), clone.stat().unwrap());
    assert_eq!((one.device, one.inode), (other.device, other.inode));
    drop(segment);
    let frozen = clone.freeze().unwrap();
    let again = frozen.try_clone().unwrap();
    drop(frozen);
    assert!(again.map().unwrap().starts_with(b"one"));
}

#[test]
fn a_clone_without_descriptors_left_is_a_limit() {
    alone(|| {
        let (segment, frozen) = (segment(), frozen(b"x"));
        limit(Resource::RLIMIT_NOFILE, 32).unwrap();
        let mut fill = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            fill.push(file);
        }
        for error in
            [segment.try_clone().unwrap_err(), frozen.try_clone().unwrap_err()]
        {
            assert!(matches!(error, Error::LimitReached(_)), "{error:?}");
        }
    });
}

/// Before Linux 6.7 the kernel refused a shared mapping of what is sealed.
#[test]
fn an_older_kernel_maps_frozen_bytes_privately() {
    alone(|| {
        let frozen = frozen(b"older");
        refuse(&Refused {
            call: libc::SYS_mmap,
            argument: 3,
            mask: libc::MAP_TYPE.cast_unsigned(),
            bits: libc::MAP_SHARED.cast_unsigned(),
            errno: libc::EPERM,
        })
        .unwrap();
        assert!(frozen.map().unwrap().starts_with(b"older"));
    });
}

#[test]
fn seals_read_as_people_write_them() {
    let seals = Seals::SHRINK | Seals::WRITE | Seals::from_bits(1 << 20);
    assert_eq!(format!("{seals:?}"), "Seals(SHRINK | WRITE | 0x100000)");
    assert_eq!(format!("{:?}", Seals::empty()), "Seals()");
}

#[test]
fn frozen_mappings_go_to_other_threads() {
    const fn shared<T: Send + Sync>() {}
    const { shared::<FrozenMapping>() };
    const { shared::<Frozen>() };
    let mapping = frozen(b"thread").map().unwrap();
    let there = std::thread::spawn(move || mapping[..6].to_vec());
    assert_eq!(there.join().unwrap(), b"thread");
}
