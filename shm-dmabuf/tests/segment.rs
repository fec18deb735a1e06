//! The contract of a segment, against the real drivers; in the siblings the same
//! promises have the same test names, in the same order.
//!
//! Each test needs the nodes that stand beside its name. Without them, or for
//! who may not open them, it is ignored, and says so.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::panic::{catch_unwind, resume_unwind};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use integration_tests::alone::{alone, alone_as_root};
use integration_tests::leaks::assert_none;
use integration_tests::peer::{DEADLINE, Peer};
use integration_tests::surroundings::{self, Refused};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::fcntl::{FallocateFlags, FcntlArg, FdFlag, fallocate, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::Resource;
use proptest::prelude::*;
use shm_common::HugePages;
use shm_dmabuf::{
    CpuAccess, Error, Heap, Label, PageSize, Result, Segment, SegmentOptions,
    Size, raw,
};
use shm_memfd::{Reserve, Seals, transfer};

/// The nodes that tests need.
const UDMABUF: &str = "/dev/udmabuf";
const SYSTEM: &str = "/dev/dma_heap/system";

/// Where the size is of no interest.
const SMALL: Size = Size::KIB;

fn main() {
    macro_rules! tests {
        ($($test:ident: $($node:ident),+;)*) => {
            vec![$(Trial::ignorable_test(stringify!($test), || {
                run_if_possible($test, &[$($node),+])
            })),*]
        };
    }
    let tests = tests! {
        create_gives_zero_bytes_of_the_length_asked_for: SYSTEM;
        create_gives_a_receiver_whole_pages: SYSTEM;
        create_refuses_more_than_memory_without_asking_the_kernel: SYSTEM;
        a_size_within_memory_is_not_refused: SYSTEM;
        a_failed_create_leaves_nothing: UDMABUF, SYSTEM;
        a_memfd_and_its_buffer_are_the_same_bytes_in_two_processes: UDMABUF;
        a_heap_buffer_is_written_by_two_processes: SYSTEM;
        several_ranges_become_one_buffer: UDMABUF;
        any_ranges_become_one_buffer_in_their_order: UDMABUF;
        a_huge_page_can_be_a_buffer: UDMABUF;
        what_the_driver_does_not_allow_is_a_limit_reached: UDMABUF;
        the_driver_refuses_what_is_refused_before_it_is_asked: UDMABUF;
        a_memfd_cannot_be_frozen_while_it_is_a_buffer: UDMABUF;
        what_is_punched_out_of_a_memfd_stays_in_the_buffer: UDMABUF;
        open_finds_the_bytes_of_the_creator: UDMABUF, SYSTEM;
        open_read_only_needs_only_permission_to_read: SYSTEM;
        stat_tells_what_the_kernel_knows: UDMABUF, SYSTEM;
        a_label_is_what_people_see: UDMABUF, SYSTEM;
        all_mappings_are_the_same_bytes: UDMABUF, SYSTEM;
        a_mapping_outlives_its_segment: UDMABUF, SYSTEM;
        a_forked_child_shares_the_mapping: UDMABUF, SYSTEM;
        nothing_is_left_of_a_whole_life: UDMABUF, SYSTEM;
        a_panic_removes_the_segment: UDMABUF, SYSTEM;
        a_killed_process_leaves_nothing: UDMABUF, SYSTEM;
        descriptors_do_not_survive_exec: UDMABUF, SYSTEM;
        cpu_access_may_overlap: UDMABUF, SYSTEM;
        an_error_at_the_end_of_cpu_access_is_told: SYSTEM;
        sync_files_work_or_are_unsupported: UDMABUF, SYSTEM;
        another_user_may_use_what_it_is_given_and_create_nothing: UDMABUF, SYSTEM;
        too_many_descriptors_are_a_limit_reached: UDMABUF, SYSTEM;
        a_storm_of_signals_changes_nothing: UDMABUF, SYSTEM;
    };
    libtest_mimic::run(&Arguments::from_args(), tests).exit();
}

fn run_if_possible(test: fn(), nodes: &[&str]) -> Result<Completion, Failed> {
    for node in nodes {
        if let Err(error) = File::options().read(true).write(true).open(node) {
            let reason = format!("{node}: {error}");
            return Ok(Completion::ignored_with(reason));
        }
    }
    test();
    Ok(Completion::Completed)
}

// Create.

fn create_gives_zero_bytes_of_the_length_asked_for() {
    let page = page();
    for len in [1, page - 1, page, page + 1, 10 * page] {
        let segment = Segment::create(&system(), size(len)).unwrap();
        let mapping = segment.map().unwrap();
        assert_eq!(segment.len(), len);
        assert_eq!(mapping.len(), len);
        assert_eq!(mapping.mapped_len(), len.next_multiple_of(page));
        assert_eq!(mapping.bytes().to_vec(), vec![0; len]);
    }
}

fn create_gives_a_receiver_whole_pages() {
    let segment = system().allocate(size(10_000)).unwrap();
    assert_eq!(segment.len(), 10_000);
    assert_eq!(segment.stat().unwrap().len, 12_288);
    let theirs = Segment::open(copy_of(&segment)).unwrap();
    assert_eq!(theirs.len(), 12_288);
    assert_eq!(theirs.map().unwrap().bytes().to_vec(), vec![0; 12_288]);
}

fn create_refuses_more_than_memory_without_asking_the_kernel() {
    alone(|| {
        let heap = system();
        let total = meminfo("MemTotal:");
        // If the kernel were asked, this would be its answer.
        refuse_ioctl(raw::DMA_HEAP_IOCTL_ALLOC, libc::EXDEV);
        let too_large = ["1TiB".parse().unwrap(), size(total)];
        assert_none(|| {
            for size in too_large {
                let created = heap.allocate(size);
                let Err(Error::OutOfMemory(os)) = &created else {
                    panic!("{size}: {created:?}");
                };
                assert_eq!(os.errno(), libc::ENOMEM);
                assert!(os.to_string().contains(SYSTEM), "{os}");
                assert!(os.to_string().contains(&size.to_string()), "{os}");
            }
            let created = heap.allocate(Size::MAX);
            assert!(matches!(created, Err(Error::InvalidSize { .. })));
            // And what is not too large does get there.
            let os = heap.allocate(SMALL).unwrap_err();
            assert_eq!(os.raw_os_error(), Some(libc::EXDEV));
        });
    });
}

fn a_size_within_memory_is_not_refused() {
    // No more than that, since other programs run too.
    let many = size((128 << 20).min(meminfo("MemAvailable:") / 2));
    let segment = system().allocate(many).unwrap();
    let mapping = segment.map().unwrap();
    mapping.bytes().write_at(many.bytes() - 4, b"last").unwrap();
}

fn a_failed_create_leaves_nothing() {
    let refused = [
        (raw::DMA_BUF_SET_NAME_B, "ioctl(DMA_BUF_SET_NAME)"),
        (raw::DMA_HEAP_IOCTL_ALLOC, "ioctl(DMA_HEAP_IOCTL_ALLOC)"),
        (raw::UDMABUF_CREATE, "ioctl(UDMABUF_CREATE)"),
        (raw::UDMABUF_CREATE_LIST, "ioctl(UDMABUF_CREATE_LIST)"),
    ];
    alone(|| {
        for (number, call) in refused {
            let peer = Peer::fork(|_| -> Result<_> {
                refuse_ioctl(number, libc::EXDEV);
                let mut failed = 0;
                assert_none(|| {
                    let label = Label::new("label").unwrap();
                    let options = SegmentOptions::new().label(label);
                    let memfd = memfd(2);
                    let parts = [
                        (memfd.as_fd(), 0..page()),
                        (memfd.as_fd(), 0..page()),
                    ];
                    for created in [
                        options.create(&system(), SMALL),
                        options.from_memfd(&memfd, 0..page()),
                        options.from_memfds(&parts),
                    ] {
                        if let Err(error) = created {
                            assert_eq!(error.os_error().unwrap().call(), call);
                            failed += 1;
                        }
                    }
                });
                Ok(vec![failed])
            });
            let failed = peer.unwrap().join(DEADLINE).unwrap()[0];
            let all = number == raw::DMA_BUF_SET_NAME_B;
            assert_eq!(failed, if all { 3 } else { 1 }, "{call}");
        }
    });
}

fn a_memfd_and_its_buffer_are_the_same_bytes_in_two_processes() {
    let memfd = memfd(3);
    let ours = memfd.map().unwrap();
    ours.bytes().fill(1);
    ours.bytes().write_at(page() + 5, b"ping").unwrap();
    let buffer = Segment::from_memfd(&memfd, page()..3 * page()).unwrap();
    let (here, there) = UnixStream::pair().unwrap();

    let peer = Peer::fork(|_| -> Result<_> {
        // Everything that was inherited is left aside.
        let message = transfer::receive(&there, &mut [0; 1], 1)?;
        let [fd] = message.into_descriptors()?;
        let theirs = Segment::open(fd)?;
        let mapping = theirs.map()?;
        assert_eq!(mapping.len(), 2 * page());
        let access = theirs.cpu_access(CpuAccess::ReadWrite)?;
        assert_eq!(mapping.bytes().get(5), Ok(*b"ping"));
        mapping.bytes().write_at(2 * page() - 4, b"pong")?;
        access.end()?;
        Ok(b"")
    });
    transfer::send(&here, b"!", &[buffer.as_fd()]).unwrap();
    peer.unwrap().join(DEADLINE).unwrap();

    assert_eq!(ours.bytes().get(3 * page() - 4), Ok(*b"pong"));
    // The page before the range is not the buffer's.
    assert_eq!(
        ours.bytes().subslice(0, page()).unwrap().to_vec(),
        vec![1; page()]
    );
}

fn a_heap_buffer_is_written_by_two_processes() {
    const TURNS: u64 = 1000;
    let buffer = system().allocate(size(2 * page())).unwrap();
    let mapping = buffer.map().unwrap();
    let (here, there) = UnixStream::pair().unwrap();

    // In turns, one makes the number odd and the other even; and each writes
    // down what it saw.
    let play = |segment: &Segment, mine: u64| -> Result<()> {
        let mapping = segment.map()?;
        let turn = mapping.bytes().atomic_u64(0)?;
        let deadline = Instant::now() + DEADLINE;
        for number in (mine..2 * TURNS).step_by(2) {
            while turn.load(Ordering::Acquire) != number {
                assert!(Instant::now() < deadline, "the other is gone");
                thread::yield_now();
            }
            let at = page() + 8 * usize::try_from(number % 8).unwrap();
            mapping.bytes().set(at, number)?;
            turn.store(number + 1, Ordering::Release);
        }
        Ok(())
    };
    let peer = Peer::fork(|_| -> Result<_> {
        let message = transfer::receive(&there, &mut [0; 1], 1)?;
        let [fd] = message.into_descriptors()?;
        play(&Segment::open(fd)?, 1)?;
        Ok(b"")
    });
    transfer::send(&here, b"!", &[buffer.as_fd()]).unwrap();
    play(&buffer, 0).unwrap();
    peer.unwrap().join(DEADLINE).unwrap();

    assert_eq!(mapping.bytes().get::<u64>(0), Ok(2 * TURNS));
    for last in 2 * TURNS - 8..2 * TURNS {
        let at = page() + 8 * usize::try_from(last % 8).unwrap();
        assert_eq!(mapping.bytes().get::<u64>(at), Ok(last));
    }
}

fn several_ranges_become_one_buffer() {
    let page = page();
    let (a, b) = (memfd(3), memfd(2));
    for (memfd, byte) in [(&a, b'a'), (&b, b'A')] {
        let mapping = memfd.map().unwrap();
        for at in 0..mapping.len() / page {
            let page_of = mapping.bytes().subslice(at * page, page).unwrap();
            page_of.fill(byte + u8::try_from(at).unwrap());
        }
    }
    let parts = [
        (b.as_fd(), page..2 * page),
        (a.as_fd(), 0..2 * page),
        (b.as_fd(), 0..page),
        (a.as_fd(), page..2 * page),
    ];
    let buffer = Segment::from_memfds(&parts).unwrap();
    assert_eq!(buffer.len(), 5 * page);
    let mapping = buffer.map().unwrap();
    let firsts: Vec<u8> =
        (0..5).map(|at| mapping.bytes().get(at * page).unwrap()).collect();
    assert_eq!(firsts, *b"BabAb");

    // The page that is there twice is one page.
    mapping.bytes().write_at(2 * page + 7, b"!").unwrap();
    assert_eq!(mapping.bytes().get(4 * page + 7), Ok(*b"!"));
    assert_eq!(a.map().unwrap().bytes().get(page + 7), Ok(*b"!"));
}

fn any_ranges_become_one_buffer_in_their_order() {
    const PAGES: usize = 6;
    let page = page();
    let memfds = [memfd(PAGES), memfd(PAGES), memfd(PAGES)];
    for (memfd, number) in memfds.iter().zip(0_u64..) {
        let mapping = memfd.map().unwrap();
        // Every word is another.
        for at in (0..mapping.len()).step_by(8) {
            mapping.bytes().set(at, number << 32 | at as u64).unwrap();
        }
    }
    let part = (0..memfds.len(), 0..PAGES)
        .prop_flat_map(|(of, from)| (Just(of), Just(from), from + 1..=PAGES));
    let parts = prop::collection::vec(part, 1..12);
    let config = ProptestConfig {
        cases: 48,
        // In the machine there is no file to keep them in.
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(parts in parts)| {
        let (mut ranges, mut expected) = (Vec::new(), Vec::new());
        for (of, from, to) in parts {
            let range = from * page..to * page;
            let mapping = memfds[of].map().unwrap();
            let bytes = mapping.bytes().subslice(range.start, range.len());
            expected.extend(bytes.unwrap().to_vec());
            ranges.push((memfds[of].as_fd(), range));
        }
        let buffer = Segment::from_memfds(&ranges).unwrap();
        prop_assert_eq!(buffer.len(), expected.len());
        prop_assert_eq!(buffer.stat().unwrap().len, expected.len() as u64);
        prop_assert!(buffer.map().unwrap().bytes().to_vec() == expected);
    });
}

fn a_huge_page_can_be_a_buffer() {
    // Transparent ones are always to be had, or at least to be asked for.
    let memfd = shm_memfd::SegmentOptions::new()
        .huge_pages(HugePages::Transparent)
        .create(&shm_memfd::Label::new("huge").unwrap(), size(4 << 20))
        .unwrap();
    let middle = (1 << 20)..(3 << 20);
    let buffer = Segment::from_memfd(&memfd, middle).unwrap();
    buffer.map().unwrap().bytes().write_at((2 << 20) - 4, b"last").unwrap();
    let mapping = memfd.map().unwrap();
    assert_eq!(mapping.bytes().get((3 << 20) - 4), Ok(*b"last"));
}

fn what_the_driver_does_not_allow_is_a_limit_reached() {
    alone(|| {
        let limit = |name: &str| -> usize {
            let path = format!("/sys/module/udmabuf/parameters/{name}");
            fs::read_to_string(path).unwrap().trim().parse().unwrap()
        };
        let most = limit("size_limit_mb") << 20;
        let sparse = shm_memfd::SegmentOptions::new()
            .reserve(Reserve::OnTouch)
            .create(&shm_memfd::Label::new("sparse").unwrap(), size(2 * most))
            .unwrap();
        let memfd = memfd(1);
        let too_many: Vec<(BorrowedFd<'_>, Range<usize>)> =
            (0..=limit("list_limit"))
                .map(|_| (memfd.as_fd(), 0..page()))
                .collect();
        assert_none(|| {
            let larger = Segment::from_memfd(&sparse, 0..most + page());
            is_limit(&larger, "size_limit_mb");
            let longer = Segment::from_memfds(&too_many);
            is_limit(&longer, "list_limit");
            // One less is fine.
            Segment::from_memfds(&too_many[1..]).unwrap();
        });
    });
}

fn is_limit(created: &Result<Segment>, parameter: &str) {
    let Err(Error::LimitReached(os)) = created else {
        panic!("{parameter}: {created:?}");
    };
    assert_eq!(os.errno(), libc::EINVAL);
    assert!(os.to_string().contains(parameter), "{os}");
}

fn the_driver_refuses_what_is_refused_before_it_is_asked() {
    let page = page() as u64;
    let device = device();
    let sealed = |seals| {
        let memfd = memfd(2);
        memfd.seal(seals).unwrap();
        memfd
    };
    let good = memfd(2);
    let errno = |memfd: BorrowedFd<'_>, offset, len| {
        let made =
            raw::ioctl_udmabuf_create(device.as_fd(), memfd, 1, offset, len);
        made.map(drop).map_err(|os| os.errno())
    };
    assert_eq!(errno(good.as_fd(), 0, 2 * page), Ok(()));
    let grown = sealed(Seals::GROW);
    assert_eq!(errno(grown.as_fd(), 0, page), Ok(()));

    let refused = Err(libc::EINVAL);
    assert_eq!(errno(good.as_fd(), 0, 0), refused);
    assert_eq!(errno(good.as_fd(), 1, page), refused);
    assert_eq!(errno(good.as_fd(), 0, page + 1), refused);
    assert_eq!(errno(good.as_fd(), page, 2 * page), refused);
    let unsealed = raw_memfd(page);
    assert_eq!(errno(unsealed.as_fd(), 0, page), refused);
    let frozen = sealed(Seals::WRITE);
    assert_eq!(errno(frozen.as_fd(), 0, page), refused);
    let half_frozen = sealed(Seals::FUTURE_WRITE);
    assert_eq!(errno(half_frozen.as_fd(), 0, page), refused);
    let null = File::open("/dev/null").unwrap();
    assert!(errno(null.as_fd(), 0, page).is_err());
}

fn a_memfd_cannot_be_frozen_while_it_is_a_buffer() {
    let memfd = memfd(2);
    let buffer = Segment::from_memfd(&memfd, 0..page()).unwrap();
    // Not even where the buffer is not mapped, and for the page that is not in
    // it.
    let failed = memfd.freeze().unwrap_err();
    assert!(matches!(failed.error, Error::Busy(_)), "{:?}", failed.error);
    drop(buffer);
    let frozen = failed.segment.freeze().unwrap();

    // And the other way round.
    let refused = Segment::from_memfd(&frozen, 0..page());
    assert!(matches!(refused, Err(Error::PermissionDenied(_))), "{refused:?}");
}

fn what_is_punched_out_of_a_memfd_stays_in_the_buffer() {
    let memfd = memfd(1);
    memfd.map().unwrap().bytes().write_at(0, b"kept").unwrap();
    let buffer = Segment::from_memfd(&memfd, 0..page()).unwrap();
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE
        | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let len = libc::off_t::try_from(page()).unwrap();
    fallocate(&memfd, flags, 0, len).unwrap();
    assert_eq!(memfd.map().unwrap().bytes().get(0), Ok([0; 4]));
    assert_eq!(buffer.map().unwrap().bytes().get(0), Ok(*b"kept"));
}

// Open.

fn open_finds_the_bytes_of_the_creator() {
    for segment in both() {
        segment.map().unwrap().bytes().write_at(3, b"found").unwrap();
        let opened = Segment::open(copy_of(&segment)).unwrap();
        assert_eq!(opened.len(), segment.len());
        assert_eq!(opened.map().unwrap().bytes().get(3), Ok(*b"found"));
        let opened = Segment::open_read_only(copy_of(&segment)).unwrap();
        assert_eq!(opened.map().unwrap().bytes().get(3), Ok(*b"found"));
        let opened: Segment = copy_of(&segment).try_into().unwrap();
        opened.map().unwrap().bytes().write_at(3, b"FOUND").unwrap();
        let mapping = segment.map_read_only().unwrap();
        assert_eq!(mapping.bytes().get(3), Ok(*b"FOUND"));
    }
}

fn open_read_only_needs_only_permission_to_read() {
    let flags = (libc::O_RDONLY | libc::O_CLOEXEC).cast_unsigned();
    let len = page() as u64;
    let fd = raw::ioctl_dma_heap_alloc(system().as_fd(), len, flags, 0);
    let fd = fd.unwrap();
    let opened = Segment::open(fd.try_clone().unwrap());
    assert!(matches!(opened, Err(Error::PermissionDenied(_))), "{opened:?}");
    let opened = Segment::open_read_only(fd).unwrap();
    assert_eq!(opened.map().unwrap().bytes().to_vec(), vec![0; page()]);

    let path = format!("/proc/self/fd/{}", opened.as_fd().as_raw_fd());
    let mut options = File::options();
    let named = options.read(true).custom_flags(libc::O_PATH).open(path);
    let opened = Segment::open_read_only(named.unwrap());
    assert!(matches!(opened, Err(Error::PermissionDenied(_))), "{opened:?}");
}

// Inspect.

fn stat_tells_what_the_kernel_knows() {
    let [of_memfd, of_heap] = both();
    let stat = of_memfd.stat().unwrap();
    assert_eq!(stat.len, 2 * page() as u64);
    assert_eq!(stat.exporter.clone().unwrap(), "udmabuf");
    assert_eq!(stat.label, None);
    assert_eq!(of_heap.stat().unwrap().exporter.unwrap(), "system");

    // The same buffer, whichever the descriptor; and another is another.
    let opened = Segment::open(copy_of(&of_memfd)).unwrap();
    assert_eq!(opened.stat().unwrap(), stat);
    let other = of_heap.stat().unwrap();
    assert_ne!((other.device, other.inode), (stat.device, stat.inode));
}

fn a_label_is_what_people_see() {
    let longest = "l".repeat(Label::MAX_LEN);
    for text in ["frames", &longest, "with \"blanks\"\nand lines"] {
        let label = Label::new(text).unwrap();
        let options = SegmentOptions::new().label(label);
        for segment in [
            options.create(&system(), SMALL).unwrap(),
            options.from_memfd(memfd(1), 0..page()).unwrap(),
        ] {
            assert_eq!(segment.stat().unwrap().label.unwrap(), text);
            let link = format!("/proc/self/fd/{}", segment.as_fd().as_raw_fd());
            let link = fs::read_link(link).unwrap();
            assert_eq!(link.to_str(), Some(&*format!("/dmabuf:{text}")));

            // Whoever holds it may change it, and all see that.
            let other = Segment::open_read_only(copy_of(&segment)).unwrap();
            other.set_name(&Label::new("other").unwrap()).unwrap();
            assert_eq!(segment.stat().unwrap().label.unwrap(), "other");
        }
    }
}

// Map.

fn all_mappings_are_the_same_bytes() {
    for segment in both() {
        let (first, second) = (segment.map().unwrap(), segment.map().unwrap());
        let reading = segment.map_read_only().unwrap();
        first.bytes().write_at(page() - 2, b"over").unwrap();
        assert_eq!(second.bytes().get(page() - 2), Ok(*b"over"));
        assert_eq!(reading.bytes().get(page() - 2), Ok(*b"over"));
        assert_ne!(first.bytes().as_ptr(), second.bytes().as_ptr());
    }
}

fn a_mapping_outlives_its_segment() {
    for segment in both() {
        let mapping = segment.map().unwrap();
        drop(segment);
        mapping.bytes().write_at(0, b"still").unwrap();
        assert_eq!(mapping.bytes().get(0), Ok(*b"still"));
    }
}

fn a_forked_child_shares_the_mapping() {
    for segment in both() {
        let mapping = segment.map().unwrap();
        let bytes = mapping.bytes();
        bytes.write_at(0, b"ping").unwrap();
        let peer = Peer::fork(|_| {
            assert_eq!(bytes.get(0), Ok(*b"ping"));
            bytes.write_at(0, b"pong").map(|()| b"")
        });
        peer.unwrap().join(DEADLINE).unwrap();
        assert_eq!(bytes.get(0), Ok(*b"pong"));
    }
}

fn nothing_is_left_of_a_whole_life() {
    alone(|| {
        assert_none(|| {
            for segment in both() {
                let theirs = Segment::open(copy_of(&segment)).unwrap();
                let mapping = theirs.map().unwrap();
                let access = theirs.cpu_access(CpuAccess::Write).unwrap();
                mapping.bytes().fill(1);
                access.end().unwrap();
                let _ = segment.export_sync_file(CpuAccess::Read);
                segment.set_name(&Label::new("life").unwrap()).unwrap();
            }
            assert_eq!(Heap::list().unwrap(), ["system"]);
        });
    });
}

fn a_panic_removes_the_segment() {
    alone_as_root(|| {
        let list = ListOfBuffers::mount();
        let text = format!("panic-{}", std::process::id());
        let label = Label::new(&text).unwrap();
        let panicked: thread::Result<()> = catch_unwind(|| {
            let segments = both();
            let mappings = segments.each_ref().map(|s| s.map().unwrap());
            let _access = segments[0].cpu_access(CpuAccess::Read).unwrap();
            for segment in &segments {
                segment.set_name(&label).unwrap();
            }
            assert_eq!(list.count(&text), 2);
            resume_unwind(Box::new(mappings[0].len()));
        });
        assert_eq!(
            *panicked.unwrap_err().downcast::<usize>().unwrap(),
            2 * page()
        );
        assert_eq!(list.count(&text), 0);
    });
}

fn a_killed_process_leaves_nothing() {
    alone_as_root(|| {
        let list = ListOfBuffers::mount();
        let text = format!("killed-{}", std::process::id());
        let label = Label::new(&text).unwrap();
        let mut peer = Peer::fork(|link| -> std::io::Result<_> {
            let made = both();
            let mappings = made.each_ref().map(|segment| segment.map());
            for (segment, mapping) in made.iter().zip(&mappings) {
                segment.set_name(&label).map_err(std::io::Error::from)?;
                let mapping = mapping.as_ref().unwrap();
                mapping.bytes().write_at(0, b"mapped").unwrap();
            }
            link.send("made")?;
            link.receive()
        })
        .unwrap();
        assert_eq!(peer.receive().unwrap(), b"made");
        assert_eq!(list.count(&text), 2);
        peer.kill().unwrap();
        let deadline = Instant::now() + DEADLINE;
        while list.count(&text) > 0 {
            assert!(Instant::now() < deadline, "they are still there");
            thread::sleep(Duration::from_millis(5));
        }
    });
}

fn descriptors_do_not_survive_exec() {
    let flags = |fd: BorrowedFd<'_>| {
        FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap())
    };
    let memfd = memfd(1);
    let parts = [(memfd.as_fd(), 0..page()), (memfd.as_fd(), 0..page())];
    let [of_memfd, of_heap] = both();
    let of_list = Segment::from_memfds(&parts).unwrap();
    for segment in [of_memfd, of_heap, of_list] {
        assert!(flags(segment.as_fd()).contains(FdFlag::FD_CLOEXEC));
    }
    assert!(flags(system().as_fd()).contains(FdFlag::FD_CLOEXEC));
}

// Take turns with devices.

fn cpu_access_may_overlap() {
    for segment in both() {
        let mapping = segment.map().unwrap();
        for access in [CpuAccess::Read, CpuAccess::Write, CpuAccess::ReadWrite]
        {
            let outer = segment.cpu_access(access).unwrap();
            let inner = segment.cpu_access(CpuAccess::ReadWrite).unwrap();
            mapping.bytes().write_at(0, b"turn").unwrap();
            assert_eq!(mapping.bytes().get(0), Ok(*b"turn"));
            drop(outer);
            inner.end().unwrap();
        }
        // Who only reads may say so too.
        let reader = Segment::open_read_only(copy_of(&segment)).unwrap();
        reader.cpu_access(CpuAccess::Read).unwrap().end().unwrap();
    }
}

fn an_error_at_the_end_of_cpu_access_is_told() {
    alone(|| {
        let segment = system().allocate(SMALL).unwrap();
        let told = segment.cpu_access(CpuAccess::Write).unwrap();
        let dropped = segment.cpu_access(CpuAccess::Read).unwrap();
        refuse_ioctl(raw::DMA_BUF_IOCTL_SYNC, libc::EIO);
        let Err(Error::Os(os)) = told.end() else { panic!("no error") };
        assert_eq!(os.errno(), libc::EIO);
        assert_eq!(os.call(), "ioctl(DMA_BUF_IOCTL_SYNC)");
        drop(dropped);
        let started = segment.cpu_access(CpuAccess::Write);
        assert!(matches!(started, Err(Error::Os(_))), "{started:?}");
    });
}

fn sync_files_work_or_are_unsupported() {
    for segment in both() {
        match segment.export_sync_file(CpuAccess::ReadWrite) {
            Ok(sync_file) => {
                segment.import_sync_file(sync_file, CpuAccess::Write).unwrap();
                let null = File::open("/dev/null").unwrap();
                let refused = segment.import_sync_file(null, CpuAccess::Read);
                assert!(matches!(refused, Err(Error::Os(_))), "{refused:?}");
            }
            Err(Error::Unsupported { os: Some(os), .. }) => {
                assert_eq!(os.errno(), libc::ENOTTY);
                let refused =
                    segment.import_sync_file(&segment, CpuAccess::Read);
                assert!(
                    matches!(refused, Err(Error::Unsupported { .. })),
                    "{refused:?}"
                );
            }
            Err(other) => panic!("{other}"),
        }
    }
}

// Limits and other surroundings.

fn another_user_may_use_what_it_is_given_and_create_nothing() {
    let segments = both();
    let memfd = memfd(1);
    let peer = Peer::fork_as(65_534, |_| -> Result<_> {
        for segment in &segments {
            let theirs = Segment::open(copy_of(segment))?;
            theirs.map()?.bytes().write_at(0, b"nobody")?;
            theirs.cpu_access(CpuAccess::Write)?.end()?;
        }
        let opened = Heap::open("system").map(drop);
        assert!(
            matches!(opened, Err(Error::PermissionDenied(_))),
            "{opened:?}"
        );
        let made = Segment::from_memfd(&memfd, 0..page());
        assert!(matches!(made, Err(Error::PermissionDenied(_))), "{made:?}");
        Ok(b"")
    });
    // Who is not root and could open the nodes has no other user to be.
    let Some(peer) = peer.unwrap() else { return };
    peer.join(DEADLINE).unwrap();
    for segment in segments {
        assert_eq!(segment.map().unwrap().bytes().get(0), Ok(*b"nobody"));
    }
}

fn too_many_descriptors_are_a_limit_reached() {
    alone(|| {
        let (heap, memfd) = (system(), memfd(1));
        // Enough for what was opened, and to read what memory there is.
        let next = File::open("/dev/null").unwrap().as_raw_fd();
        let most = u64::try_from(next).unwrap();
        surroundings::limit(Resource::RLIMIT_NOFILE, most).unwrap();
        let is_limit = |made: Result<Segment>| {
            assert!(matches!(made, Err(Error::LimitReached(_))), "{made:?}");
        };
        is_limit(Segment::from_memfd(&memfd, 0..page()));
        is_limit(heap.allocate(SMALL));
        let opened = Heap::open("system").map(drop);
        assert!(matches!(opened, Err(Error::LimitReached(_))), "{opened:?}");
        // With one more, the device can be opened, and the buffer not.
        surroundings::limit(Resource::RLIMIT_NOFILE, most + 1).unwrap();
        assert_none_without_descriptors(|| {
            is_limit(Segment::from_memfd(&memfd, 0..page()));
        });
        heap.allocate(SMALL).unwrap();
    });
}

fn a_storm_of_signals_changes_nothing() {
    alone(|| {
        surroundings::storm_of_signals(100).unwrap();
        let deadline = Instant::now() + Duration::from_millis(300);
        while Instant::now() < deadline {
            for segment in both() {
                let access = segment.cpu_access(CpuAccess::Write).unwrap();
                segment.map().unwrap().bytes().fill(7);
                access.end().unwrap();
            }
        }
    });
}

/// The next descriptor's number is the same afterwards: for where none is left
/// to look at the others with.
fn assert_none_without_descriptors(scenario: impl FnOnce()) {
    let next = || File::open("/dev/null").unwrap().as_raw_fd();
    let before = next();
    scenario();
    assert_eq!(before, next());
}

/// One of each kind, of two pages.
fn both() -> [Segment; 2] {
    let len = 2 * page();
    [
        Segment::from_memfd(memfd(2), 0..len).unwrap(),
        Segment::create(&system(), size(len)).unwrap(),
    ]
}

fn system() -> Heap {
    Heap::open("system").unwrap()
}

fn device() -> File {
    File::options().read(true).write(true).open(UDMABUF).unwrap()
}

fn memfd(pages: usize) -> shm_memfd::Segment {
    let label = shm_memfd::Label::new("dmabuf-test").unwrap();
    shm_memfd::Segment::create(&label, size(pages * page())).unwrap()
}

/// One that carries no seal.
fn raw_memfd(len: u64) -> OwnedFd {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let fd = shm_memfd::raw::memfd_create(c"unsealed", flags).unwrap();
    File::from(fd.try_clone().unwrap()).set_len(len).unwrap();
    fd
}

fn copy_of(segment: &Segment) -> OwnedFd {
    segment.as_fd().try_clone_to_owned().unwrap()
}

fn size(bytes: usize) -> Size {
    Size::new(bytes).unwrap()
}

fn page() -> usize {
    PageSize::base().bytes()
}

/// The kernel's list of all buffers, which it keeps for developers.
struct ListOfBuffers;

impl ListOfBuffers {
    /// For this thread alone.
    fn mount() -> Self {
        const NONE: Option<&str> = None;
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(NONE, "/", NONE, private, NONE).unwrap();
        let kind = Some("debugfs");
        let none = MsFlags::empty();
        mount(kind, "/sys/kernel/debug", kind, none, NONE).unwrap();
        Self
    }

    /// How many lines hold a label.
    fn count(&self, label: &str) -> usize {
        let list = fs::read("/sys/kernel/debug/dma_buf/bufinfo").unwrap();
        let list = String::from_utf8_lossy(&list);
        list.lines().filter(|line| line.contains(label)).count()
    }
}

/// Bytes, by the name in `/proc/meminfo`.
fn meminfo(name: &str) -> usize {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let line = meminfo.lines().find(|line| line.starts_with(name)).unwrap();
    let kibibytes = line.split_whitespace().nth(1).unwrap();
    kibibytes.parse::<usize>().unwrap() * 1024
}

fn refuse_ioctl(number: libc::Ioctl, errno: i32) {
    let bits = u32::try_from(number).unwrap();
    let call = libc::SYS_ioctl;
    let refused = Refused { call, argument: 1, mask: u32::MAX, bits, errno };
    surroundings::refuse(&refused).unwrap();
}
