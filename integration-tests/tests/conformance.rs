//! One suite for every mechanism: what one process writes, another reads, and
//! what must survive survives.
//!
//! The suite is written once, against the trait `Mechanism`; `conformance!`
//! makes the tests of one mechanism from it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use integration_tests::leaks;
use integration_tests::peer::{DEADLINE, JoinError, Peer};
use shm_common::{
    AsSharedBytes, PageSize, ReadOnly, ReadWrite, Result, SharedBytes, Size,
};

/// What the suite needs of a mechanism.
trait Mechanism {
    type Segment: Send;
    type Mapping: AsSharedBytes<Access = ReadWrite>;
    type ReadMapping: AsSharedBytes<Access = ReadOnly>;

    fn create(size: Size) -> Result<Self::Segment>;
    fn map(segment: &Self::Segment) -> Result<Self::Mapping>;
    /// Opens it anew, as a process would that was only told how to find it.
    fn open(segment: &Self::Segment) -> Result<Self::Mapping>;
    fn open_read_only(segment: &Self::Segment) -> Result<Self::ReadMapping>;
    /// Takes away what finds it, where there is such a thing.
    fn remove(segment: &mut Self::Segment) -> Result<()>;
    /// What tells later whether the system still has it.
    fn trace(segment: &Self::Segment) -> String;
    fn is_there(trace: &str) -> bool;
}

struct SysV;

impl Mechanism for SysV {
    type Segment = shm_sysv::Segment;
    type Mapping = shm_sysv::Mapping<ReadWrite>;
    type ReadMapping = shm_sysv::Mapping<ReadOnly>;

    fn create(size: Size) -> Result<Self::Segment> {
        let key = shm_sysv::Key::new(leaks::unique_key());
        shm_sysv::Segment::create(key, size)
    }

    fn map(segment: &Self::Segment) -> Result<Self::Mapping> {
        segment.map()
    }

    fn open(segment: &Self::Segment) -> Result<Self::Mapping> {
        shm_sysv::Segment::open(segment.stat()?.key)?.map()
    }

    fn open_read_only(segment: &Self::Segment) -> Result<Self::ReadMapping> {
        shm_sysv::Segment::open_id_read_only(segment.id())?.map()
    }

    fn remove(segment: &mut Self::Segment) -> Result<()> {
        segment.remove()
    }

    fn trace(segment: &Self::Segment) -> String {
        segment.id().as_raw().to_string()
    }

    fn is_there(trace: &str) -> bool {
        let id: shm_sysv::Id = trace.parse().unwrap();
        shm_sysv::list().unwrap().iter().any(|stat| stat.id == id)
    }
}

struct Posix;

impl Mechanism for Posix {
    type Segment = shm_posix::Segment;
    type Mapping = shm_posix::Mapping<ReadWrite>;
    type ReadMapping = shm_posix::Mapping<ReadOnly>;

    fn create(size: Size) -> Result<Self::Segment> {
        let name = leaks::unique_name("conformance");
        shm_posix::Segment::create(&shm_posix::Name::new(name)?, size)
    }

    fn map(segment: &Self::Segment) -> Result<Self::Mapping> {
        segment.map()
    }

    fn open(segment: &Self::Segment) -> Result<Self::Mapping> {
        shm_posix::Segment::open(segment.name())?.map()
    }

    fn open_read_only(segment: &Self::Segment) -> Result<Self::ReadMapping> {
        shm_posix::Segment::open_read_only(segment.name())?.map()
    }

    fn remove(segment: &mut Self::Segment) -> Result<()> {
        segment.unlink()
    }

    fn trace(segment: &Self::Segment) -> String {
        segment.name().path().to_str().unwrap().to_owned()
    }

    fn is_there(trace: &str) -> bool {
        std::fs::exists(trace).unwrap()
    }
}
