//! What is refused before a driver is asked, and what is said where there is
//! none: the same on every machine.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;

use integration_tests::alone::{alone, alone_as_root};
use integration_tests::leaks::assert_none;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use shm_common::{NameFault, SizeFault};
use shm_dmabuf::{Error, Heap, PageSize, Result, Segment, Size};
use shm_memfd::Seals;

#[test]
fn from_memfd_refuses_what_is_no_memfd() {
    alone(|| {
        let null = File::open("/dev/null").unwrap();
        let (socket, _) = UnixStream::pair().unwrap();
        assert_none(|| {
            for made in [
                Segment::from_memfd(&null, 0..page()),
                Segment::from_memfd(&socket, 0..page()),
            ] {
                let Err(Error::WrongKind { expected, .. }) = made else {
                    panic!("{made:?}");
                };
                assert_eq!(expected, "memfd");
            }
        });
    });
}

#[test]
fn from_memfd_refuses_a_descriptor_that_only_names_the_file() {
    let memfd = memfd();
    let path = format!("/proc/self/fd/{}", memfd.as_fd().as_raw_fd());
    let mut options = File::options();
    let named = options.read(true).custom_flags(libc::O_PATH).open(path);
    let made = Segment::from_memfd(named.unwrap(), 0..page());
    assert!(matches!(made, Err(Error::PermissionDenied(_))), "{made:?}");
}

#[test]
fn from_memfd_refuses_what_is_sealed_too_little_or_too_much() {
    alone(|| {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        let unsealed =
            shm_memfd::raw::memfd_create(c"unsealed", flags).unwrap();
        let file = File::from(unsealed.try_clone().unwrap());
        file.set_len(page() as u64).unwrap();
        drop(file);
        let sealed = [Seals::WRITE, Seals::FUTURE_WRITE].map(|seals| {
            let memfd = memfd();
            memfd.seal(seals).unwrap();
            memfd
        });
        assert_none(|| {
            let made = Segment::from_memfd(&unsealed, 0..page());
            let Err(Error::MissingSeals { required, present, .. }) = made
            else {
                panic!("{made:?}");
            };
            assert_eq!(required, Seals::SHRINK.bits());
            assert_eq!(present & required, 0);
            for memfd in &sealed {
                let made = Segment::from_memfd(memfd, 0..page());
                let Err(Error::PermissionDenied(os)) = made else {
                    panic!("{made:?}");
                };
                assert_eq!(os.errno(), libc::EPERM);
            }
        });
    });
}

#[test]
fn from_memfd_refuses_a_range_that_is_not_of_whole_pages_of_it() {
    let page = page();
    let memfd = memfd();
    let made = |range| Segment::from_memfd(&memfd, range).unwrap_err();
    for (range, offset) in [(1..page, 1), (0..page + 1, page + 1)] {
        let expected = Error::Misaligned { offset, align: page };
        assert_eq!(made(range), expected);
    }
    let expected =
        Error::OutOfBounds { offset: page, len: 2 * page, size: 2 * page };
    assert_eq!(made(page..3 * page), expected);
    let last = usize::MAX - usize::MAX % page;
    assert!(matches!(made(0..last), Error::OutOfBounds { .. }));
    for range in [0..0, page..page, page..0, 2 * page..page] {
        let error = made(range);
        let zero =
            matches!(error, Error::InvalidSize { fault: SizeFault::Zero, .. });
        assert!(zero, "{error:?}");
    }
}

#[test]
fn from_memfds_refuses_none_and_any_that_alone_would_be_refused() {
    let memfd = memfd();
    let none = Segment::from_memfds(&[]).unwrap_err();
    let zero =
        matches!(none, Error::InvalidSize { fault: SizeFault::Zero, .. });
    assert!(zero, "{none:?}");
    let null = File::open("/dev/null").unwrap();
    let good = (memfd.as_fd(), 0..page());
    let parts = [good.clone(), good.clone(), (null.as_fd(), 0..page())];
    let made = Segment::from_memfds(&parts);
    assert!(matches!(made, Err(Error::WrongKind { .. })), "{made:?}");
    let parts = [good, (memfd.as_fd(), 0..1)];
    let made = Segment::from_memfds(&parts);
    assert!(matches!(made, Err(Error::Misaligned { .. })), "{made:?}");
}

#[test]
fn open_refuses_what_is_no_segment() {
    alone(|| {
        let kinds: [fn() -> OwnedFd; 3] = [
            || File::open("/dev/null").unwrap().into(),
            || UnixStream::pair().unwrap().0.into(),
            || memfd().into(),
        ];
        assert_none(|| {
            for kind in kinds {
                let opened = Segment::open(kind());
                let Err(Error::WrongKind { expected, .. }) = opened else {
                    panic!("{opened:?}");
                };
                assert_eq!(expected, "dma-buf");
                let opened = Segment::open_read_only(kind());
                assert!(matches!(opened, Err(Error::WrongKind { .. })));
            }
        });
    });
}

#[test]
fn a_heap_that_is_missing_is_unsupported_and_named() {
    let Err(Error::Unsupported { os: Some(os), .. }) =
        Heap::open("no-such-heap")
    else {
        panic!("no error");
    };
    assert_eq!(os.errno(), libc::ENOENT);
    let text = Heap::open("no-such-heap").unwrap_err().to_string();
    assert!(text.contains("/dev/dma_heap/no-such-heap"), "{text}");
    assert!(text.contains("CONFIG_DMABUF_HEAPS"), "{text}");
}

#[test]
fn a_name_that_leads_elsewhere_is_no_heap() {
    let fault = |name: &str| match Heap::open(name) {
        Err(Error::InvalidName { fault, .. }) => fault,
        other => panic!("{name:?}: {other:?}"),
    };
    assert_eq!(fault(""), NameFault::Empty);
    assert_eq!(fault(".."), NameFault::Dots);
    assert_eq!(fault("../null"), NameFault::Slash);
    assert_eq!(fault("system\0"), NameFault::Nul);
}

#[test]
fn without_the_nodes_creating_is_unsupported_and_says_what_is_missing() {
    alone_as_root(|| {
        let memfd = memfd();
        without_dev().unwrap();
        assert_none_but_dev(|| {
            let made = Segment::from_memfd(&memfd, 0..page());
            let Err(Error::Unsupported { os: Some(os), .. }) = &made else {
                panic!("{made:?}");
            };
            assert_eq!(os.errno(), libc::ENOENT);
            let text = made.unwrap_err().to_string();
            assert!(text.contains("/dev/udmabuf"), "{text}");
            assert!(text.contains("CONFIG_UDMABUF"), "{text}");
            let heap = Heap::open("system");
            assert!(matches!(heap, Err(Error::Unsupported { .. })));
            assert!(Heap::list().unwrap().is_empty());
        });
    });
}

#[test]
fn a_node_that_is_no_heaps_is_of_the_wrong_kind() {
    alone_as_root(|| {
        without_dev().unwrap();
        std::fs::create_dir("/dev/dma_heap").unwrap();
        File::create("/dev/dma_heap/file").unwrap();
        assert_eq!(Heap::list().unwrap(), ["file"]);
        let heap = Heap::open("file").unwrap();
        let made = heap.allocate(Size::KIB);
        let Err(Error::WrongKind { expected, .. }) = made else {
            panic!("{made:?}");
        };
        assert_eq!(expected, "dma-buf heap");
    });
}

/// Hides `/dev` from this thread.
fn without_dev() -> nix::Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let kind = Some("tmpfs");
    mount(kind, "/dev", kind, MsFlags::empty(), NONE)
}

/// As [`assert_none`], which looks into `/dev/shm`.
fn assert_none_but_dev(scenario: impl FnOnce()) {
    std::fs::create_dir("/dev/shm").unwrap();
    assert_none(scenario);
}

fn memfd() -> shm_memfd::Segment {
    let label = shm_memfd::Label::new("dmabuf-test").unwrap();
    let size: Result<Size> = Size::new(2 * page());
    shm_memfd::Segment::create(&label, size.unwrap()).unwrap()
}

fn page() -> usize {
    PageSize::base().bytes()
}
