//! Whatever becomes of a segment, of its creation or of its handing over, this
//! process and the system have afterwards what they had before: descriptors,
//! mappings, names in `/dev/shm`, System V segments.
//!
//! Each scenario runs in a process of its own, where nothing else opens or maps
//! anything meanwhile.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dmabuf;
mod memfd;
mod noticed;
mod posix;
mod sysv;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::panic::{UnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;

use integration_tests::leaks::assert_none;
use integration_tests::surroundings::limit;
use libtest_mimic::{Arguments, Completion, Trial};
use nix::sys::resource::{Resource, getrlimit};
use shm_common::{Error, Result};

/// Makes a test of each scenario, and adds those that are more than one.
macro_rules! leaves_nothing {
    (
        $($(#[$attribute:meta])* fn $name:ident() $body:block)*
        $(also $more:ident;)*
    ) => {
        $($(#[$attribute])*
        fn $name() {
            integration_tests::alone::alone(|| {
                integration_tests::leaks::assert_none(|| $body);
            });
        })*
        crate::tests! { $($name)* $($more)* }
    };
}
use leaves_nothing;

/// Lists the tests of a module.
macro_rules! tests {
    ($($test:ident)*) => {
        pub(crate) fn tests() -> Vec<(&'static str, fn())> {
            vec![$((
                concat!(module_path!(), "::", stringify!($test)),
                $test,
            )),*]
        }
    };
}
use tests;

fn main() -> ExitCode {
    let everywhere =
        [sysv::tests(), posix::tests(), memfd::tests(), noticed::tests()];
    let everywhere =
        everywhere.into_iter().flatten().map(|test| trial(test, || None));
    // The drivers that make dma-bufs are missing on many machines.
    let some = dmabuf::tests().into_iter();
    let some = some.map(|test| trial(test, dmabuf::unavailable));
    let trials = everywhere.chain(some).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A test, which is ignored where there is a reason.
fn trial(
    (path, test): (&str, fn()),
    unavailable: fn() -> Option<String>,
) -> Trial {
    // As the harness that comes with Rust calls it: without the program.
    let name = path.split_once("::").map_or(path, |(_, name)| name);
    Trial::ignorable_test(name, move || match unavailable() {
        Some(reason) => Ok(Completion::ignored_with(reason)),
        None => {
            test();
            Ok(Completion::Completed)
        }
    })
}

/// Runs `attempt` with room for no descriptor, for one, and so on until there
/// are enough. Each attempt leaves nothing; the first one fails.
fn with_room_for_few_descriptors(attempt: impl Fn() -> Result<()>) {
    let (enough, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    for room in 0..16 {
        let mut error = None;
        assert_none(|| {
            // The kernel gives out the lowest number that is free.
            let next = File::open("/dev/null").unwrap().as_raw_fd();
            let numbers = u64::try_from(next).unwrap() + room;
            limit(Resource::RLIMIT_NOFILE, numbers).unwrap();
            error = attempt().err();
            limit(Resource::RLIMIT_NOFILE, enough).unwrap();
        });
        match error {
            None => return assert!(room > 0, "needs no descriptor"),
            Some(
                Error::LimitReached(_) | Error::DescriptorsTruncated { .. },
            ) => {}
            Some(error) => panic!("with room for {room}: {error}"),
        }
    }
    panic!("16 descriptors are not enough");
}

/// Runs a scenario that ends by [`panic_half_way`].
fn catch(scenario: impl FnOnce() + UnwindSafe) {
    let panicked = catch_unwind(scenario).unwrap_err();
    assert_eq!(*panicked.downcast::<&str>().unwrap(), HALF_WAY);
}

const HALF_WAY: &str = "half-way";

fn panic_half_way() -> ! {
    // Without a word on the terminal.
    resume_unwind(Box::new(HALF_WAY))
}

/// Does this at the end of the test, also when it fails.
struct AtTheEnd<F: FnMut()>(F);

impl<F: FnMut()> Drop for AtTheEnd<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
