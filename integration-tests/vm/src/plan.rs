//! What is expected of each test on a kernel. What is not listed here must run
//! and pass.

use crate::kernel::Kernel;

/// What a test must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Run and pass.
    Pass,
    /// Say that it is ignored: the kernel cannot do what it tests.
    Ignore,
    /// Either, since nobody knows what the kernel can do.
    Any,
}

/// Programs that need more than a kernel, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("integration-tests/shape", "it reads the sources"),
    ("integration-tests/examples", "it starts cargo"),
    ("integration-tests/interop", "it compiles C and starts Python"),
    ("integration-tests/fuzz", "it replays what lies beside its sources"),
    ("shm-dmabuf/uapi", "it compiles C"),
    ("shm-sync/example", "it starts cargo"),
    ("shm-sync/loom", "it models, and asks no kernel"),
    ("vm/vm", "it tests what runs outside the machine"),
];

/// Tests that need more than a kernel, by program and name, and why.
const LEFT_OUT_TESTS: &[(&str, &str, &str)] = &[(
    "integration-tests/behaviour",
    "the_reference_is_up_to_date",
    "it reads a document",
)];

/// What a kernel may lack.
enum Need {
    /// To be built with all of these options.
    Options(&'static [&'static str]),
    /// To be at least this version.
    Version(u64, u64),
}

/// The tests that are ignored where the kernel lacks something: those of a
/// whole program, or those whose names begin so.
const NEEDS: &[(&str, Option<&str>, Need)] = &[
    (
        "shm-dmabuf/segment",
        None,
        Need::Options(&["CONFIG_UDMABUF", "CONFIG_DMABUF_HEAPS_SYSTEM"]),
    ),
    (
        "integration-tests/behaviour",
        Some("dmabuf::"),
        Need::Options(&["CONFIG_UDMABUF", "CONFIG_DMABUF_HEAPS_SYSTEM"]),
    ),
    (
        "integration-tests/conformance",
        Some("dmabuf::"),
        Need::Options(&["CONFIG_DMABUF_HEAPS_SYSTEM"]),
    ),
    (
        "integration-tests/leaks",
        Some("dmabuf::"),
        Need::Options(&["CONFIG_UDMABUF", "CONFIG_DMABUF_HEAPS_SYSTEM"]),
    ),
    (
        "vm/command",
        Some("a_buffer"),
        Need::Options(&["CONFIG_UDMABUF", "CONFIG_DMABUF_HEAPS_SYSTEM"]),
    ),
    (
        "vm/system",
        Some("a_page_of_the_pool_can_be_a_dma_buf"),
        Need::Options(&["CONFIG_UDMABUF"]),
    ),
    (
        "vm/system",
        Some("a_memfd_is_made_whatever_memfd_noexec_says"),
        Need::Version(6, 3),
    ),
];

impl Need {
    /// None: nobody knows.
    fn is_met_by(&self, kernel: &Kernel) -> Option<bool> {
        match self {
            Need::Options(options) => options
                .iter()
                .map(|option| kernel.has(option))
                .try_fold(true, |all, has| Some(all && has?)),
            Need::Version(major, minor) => {
                Some(kernel.version()? >= (*major, *minor))
            }
        }
    }
}

/// Why a program is not started at all.
pub fn left_out(program: &str) -> Option<&'static str> {
    let listed = LEFT_OUT.iter().find(|(name, _)| *name == program);
    listed.map(|(_, reason)| *reason)
}

/// The tests of a program that are not started, each with the reason.
pub fn left_out_tests(
    program: &str,
) -> impl Iterator<Item = (&'static str, &'static str)> {
    let listed = LEFT_OUT_TESTS.iter().filter(move |(of, _, _)| *of == program);
    listed.map(|(_, test, reason)| (*test, *reason))
}

/// What a test that is started must do on a kernel.
pub fn expected(program: &str, test: &str, kernel: &Kernel) -> Expected {
    let needed = NEEDS.iter().find(|(of, only, _)| {
        *of == program && only.is_none_or(|only| test.starts_with(only))
    });
    let Some((_, _, need)) = needed else { return Expected::Pass };
    match need.is_met_by(kernel) {
        Some(true) => Expected::Pass,
        Some(false) => Expected::Ignore,
        None => Expected::Any,
    }
}
