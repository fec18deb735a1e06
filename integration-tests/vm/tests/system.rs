//! What changes the whole system: pools, mounts and limits that every process
//! shares. It runs in the virtual machine, where nobody else is, and is ignored
//! elsewhere.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use integration_tests::leaks::{unique_key, unique_name};
use integration_tests::peer::{DEADLINE, Peer};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::mount::{MsFlags, mount};
use shm_common::{AsSharedBytes, Error, HugePages, PageSize, ReadWrite, Size};

/// The pool on every x86-64.
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
const HUGE: usize = 2 << 20;

const NOEXEC: &str = "/proc/sys/vm/memfd_noexec";

fn main() {
    let mut arguments = Arguments::from_args();
    // The settings of one would be the surroundings of another.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, tests()).exit();
}

fn tests() -> Vec<Trial> {
    macro_rules! in_vm {
        ($($test:ident needs $needs:expr,)*) => {
            vec![$(Trial::ignorable_test(stringify!($test), || {
                run_if_possible($test, $needs)
            })),*]
        };
    }
    in_vm! {
        huge_pages_come_from_the_pool_and_go_back needs POOL,
        a_pool_that_is_too_small_is_an_error needs POOL,
        a_page_of_the_pool_can_be_a_dma_buf needs "/dev/udmabuf",
        a_full_dev_shm_is_an_error_that_tells_what_is_free needs "/dev/shm",
        a_memfd_is_made_whatever_memfd_noexec_says needs NOEXEC,
        the_largest_segment_of_system_v_is_shmmax needs "/proc/sys/kernel/shmmax",
        the_number_of_system_v_segments_is_shmmni needs "/proc/sys/kernel/shmmni",
    }
}

fn run_if_possible(test: fn(), needs: &str) -> Result<Completion, Failed> {
    if std::env::var_os("SHM_TEST_VM").is_none() {
        return Ok(Completion::ignored_with(
            "it changes the whole system: integration-tests/vm/run",
        ));
    }
    if !Path::new(needs).exists() {
        return Ok(Completion::ignored_with(format!("there is no {needs}")));
    }
    test();
    Ok(Completion::Completed)
}

fn huge_pages_come_from_the_pool_and_go_back() {
    let pool = Setting::set(Path::new(POOL).join("nr_hugepages"), 8);
    assert_eq!(pool.value(), 8, "memory is too fragmented");
    let huge_pages = HugePages::Pool(PageSize::new(HUGE).unwrap());
    // A byte more than one page.
    let size = Size::new(HUGE + 1).unwrap();

    let memfd = shm_memfd::SegmentOptions::new()
        .huge_pages(huge_pages)
        .create(&shm_memfd::Label::new("huge").unwrap(), size)
        .unwrap();
    assert_eq!(memfd.len(), HUGE + 1);
    let mapping = memfd.map().unwrap();
    assert_eq!(mapping.mapped_len(), 2 * HUGE);
    is_shared(&mapping);
    assert_eq!(free(), 6, "a memfd");
    drop((mapping, memfd));
    assert_eq!(free(), 8, "a memfd is gone");

    let system_v = shm_sysv::SegmentOptions::new()
        .huge_pages(huge_pages)
        .create(shm_sysv::Key::new(unique_key()), size)
        .unwrap();
    let mapping = system_v.map().unwrap();
    assert_eq!(mapping.mapped_len(), 2 * HUGE);
    is_shared(&mapping);
    assert_eq!(free(), 6, "a System V segment");
    drop((mapping, system_v));
    assert_eq!(free(), 8, "a System V segment is gone");
}

fn a_pool_that_is_too_small_is_an_error() {
    let _pool = Setting::set(Path::new(POOL).join("nr_hugepages"), 2);
    let huge_pages = HugePages::Pool(PageSize::new(HUGE).unwrap());
    let size = Size::new(3 * HUGE).unwrap();

    let memfd = shm_memfd::SegmentOptions::new()
        .huge_pages(huge_pages)
        .create(&shm_memfd::Label::new("huge").unwrap(), size);
    assert!(
        matches!(memfd, Err(Error::NoSpace { requested, .. }) if requested == size),
        "{memfd:?}"
    );
    assert_eq!(free(), 2, "a memfd");

    let system_v = shm_sysv::SegmentOptions::new()
        .huge_pages(huge_pages)
        .create(shm_sysv::Key::new(unique_key()), size);
    assert!(matches!(system_v, Err(Error::OutOfMemory(_))), "{system_v:?}");
    assert_eq!(free(), 2, "a System V segment");
}

fn a_page_of_the_pool_can_be_a_dma_buf() {
    let _pool = Setting::set(Path::new(POOL).join("nr_hugepages"), 2);
    let memfd = shm_memfd::SegmentOptions::new()
        .huge_pages(HugePages::Pool(PageSize::new(HUGE).unwrap()))
        .create(&shm_memfd::Label::new("huge").unwrap(), Size::MIB)
        .unwrap();
    // Base pages out of the middle of the huge one.
    let range = 65_536..131_072;
    let buffer = shm_dmabuf::Segment::from_memfd(&memfd, range).unwrap();
    let mapping = buffer.map().unwrap();
    is_shared(&mapping);
    let pong = memfd.map().unwrap().bytes().get(131_072 - 4);
    assert_eq!(pong, Ok(*b"pong"));
    drop((buffer, memfd));
    assert_eq!(free(), 1, "the mapping still holds the page");
    drop(mapping);
    assert_eq!(free(), 2);
}

fn a_full_dev_shm_is_an_error_that_tells_what_is_free() {
    const ROOM: u64 = 1 << 20;
    let _small = SmallDevShm::mount(ROOM);
    let name = |tag| shm_posix::Name::new(unique_name(tag)).unwrap();
    let half = Size::KIB.times(512).unwrap();

    let first = shm_posix::Segment::create(&name("half"), half).unwrap();
    is_shared(&first.map().unwrap());
    let too_large = shm_posix::Segment::create(&name("whole"), Size::MIB);
    let Err(Error::NoSpace { requested, available, .. }) = too_large else {
        panic!("{too_large:?}");
    };
    assert_eq!(requested, Size::MIB);
    assert!(available.is_some_and(|bytes| bytes <= ROOM / 2), "{available:?}");
    // What failed took nothing: the other half is still to be had.
    shm_posix::Segment::create(&name("other"), half).unwrap();
    // A memfd lies in a file system of the kernel's own.
    let label = shm_memfd::Label::new("large").unwrap();
    shm_memfd::Segment::create(&label, Size::MIB.times(4).unwrap()).unwrap();
}

fn a_memfd_is_made_whatever_memfd_noexec_says() {
    let label = shm_memfd::Label::new("noexec").unwrap();
    for level in [0, 1, 2] {
        let _noexec = Setting::set(NOEXEC, level);
        let segment = shm_memfd::Segment::create(&label, Size::KIB).unwrap();
        is_shared(&segment.map().unwrap());
        assert_eq!(segment.stat().unwrap().mode & 0o111, 0, "level {level}");
    }
    // The setting does what it is meant to: who asks for an executable file
    // gets none.
    let _noexec = Setting::set(NOEXEC, 2);
    let refused =
        shm_memfd::raw::memfd_create(c"exec", libc::MFD_EXEC).unwrap_err();
    assert_eq!(refused.errno(), libc::EACCES);
}

fn the_largest_segment_of_system_v_is_shmmax() {
    let _limit = Setting::set("/proc/sys/kernel/shmmax", 65_536);
    let key = shm_sysv::Key::new(unique_key());
    let size = |bytes| Size::new(bytes).unwrap();
    let largest = shm_sysv::Segment::create(key, size(65_536)).unwrap();
    is_shared(&largest.map().unwrap());
    drop(largest);
    let larger = shm_sysv::Segment::create(key, size(65_537));
    assert!(matches!(larger, Err(Error::LimitReached(_))), "{larger:?}");
}

fn the_number_of_system_v_segments_is_shmmni() {
    let _limit = Setting::set("/proc/sys/kernel/shmmni", 3);
    let create = || {
        let key = shm_sysv::Key::new(unique_key());
        shm_sysv::Segment::create(key, Size::KIB)
    };
    let mut segments: Vec<_> = (0..3).map(|_| create().unwrap()).collect();
    let fourth = create();
    assert!(matches!(fourth, Err(Error::LimitReached(_))), "{fourth:?}");
    segments.pop();
    create().unwrap();
}

/// What a peer writes at the end is read here, and back.
fn is_shared(mapping: &impl AsSharedBytes<Access = ReadWrite>) {
    let bytes = mapping.as_shared_bytes();
    let at = bytes.len() - 4;
    bytes.write_at(at, b"ping").unwrap();
    let peer = Peer::fork(|_| {
        assert_eq!(bytes.get(at), Ok(*b"ping"));
        bytes.write_at(at, b"pong").map(|()| b"")
    });
    peer.unwrap().join(DEADLINE).unwrap();
    assert_eq!(bytes.get(at), Ok(*b"pong"));
}

fn free() -> u64 {
    read(&Path::new(POOL).join("free_hugepages"))
}

fn read(path: &Path) -> u64 {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

/// A number of the system's, put back when dropped.
struct Setting {
    path: PathBuf,
    before: u64,
}

impl Setting {
    fn set(path: impl Into<PathBuf>, to: u64) -> Self {
        let path = path.into();
        let before = read(&path);
        fs::write(&path, to.to_string()).unwrap();
        Self { path, before }
    }

    fn value(&self) -> u64 {
        read(&self.path)
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(&self.path, self.before.to_string());
    }
}

/// `/dev/shm` with little room, until dropped.
struct SmallDevShm;

impl SmallDevShm {
    fn mount(bytes: u64) -> Self {
        remount_dev_shm(&format!("size={bytes}")).unwrap();
        Self
    }
}

impl Drop for SmallDevShm {
    fn drop(&mut self) {
        let _ = remount_dev_shm("size=50%");
    }
}

fn remount_dev_shm(options: &str) -> nix::Result<()> {
    const NONE: Option<&str> = None;
    mount(NONE, "/dev/shm", NONE, MsFlags::MS_REMOUNT, Some(options))
}
