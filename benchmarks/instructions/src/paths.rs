//! The paths that are counted.
#![expect(unsafe_code, reason = "gives the counted function a plain name")]

use std::hint::black_box;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

use shm_common::{ReadWrite, Result, SharedBytes, Size};
use shm_memfd::transfer;

/// Names of the paths.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    PATHS.iter().map(|(name, _)| *name)
}

/// The path that does nothing.
pub(crate) const NOTHING: &str = "nothing";

/// The symbol of the function in which instructions are counted.
pub(crate) const COUNTED: &str = "shm_counted_calls";

/// Runs a path with counting on.
pub(crate) struct Counted(());

impl Counted {
    pub(crate) const CALLS: u32 = 1000;

    /// Once before, so that what happens at the first call only does not count.
    fn calls(self, path: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        path()?;
        shm_counted_calls(path)
    }
}

/// A plain name for callgrind's `--toggle-collect`; no other item has it.
#[unsafe(no_mangle)]
#[inline(never)]
fn shm_counted_calls(path: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    for _ in 0..Counted::CALLS {
        path()?;
    }
    Ok(())
}

type Path = fn(Counted) -> Result<()>;

const PATHS: [(&str, Path); 21] = [
    ("get u64", |counted| {
        with_view(|view| {
            counted.calls(&mut || {
                black_box(black_box(view).get::<u64>(8)?);
                Ok(())
            })
        })
    }),
    ("set u64", |counted| {
        with_view(|view| {
            counted.calls(&mut || black_box(view).set(8, black_box(7_u64)))
        })
    }),
    ("load_u64", |counted| {
        with_view(|view| {
            counted.calls(&mut || {
                black_box(black_box(view).load_u64(8)?);
                Ok(())
            })
        })
    }),
    ("atomic_u64 fetch_add", |counted| {
        with_view(|view| {
            counted.calls(&mut || {
                let word = black_box(view).atomic_u64(8)?;
                word.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
        })
    }),
    ("subslice", |counted| {
        with_view(|view| {
            counted.calls(&mut || {
                black_box(black_box(view).subslice(8, 16)?);
                Ok(())
            })
        })
    }),
    ("read_at 7 B", |counted| read(counted, 7)),
    ("read_at 64 B", |counted| read(counted, 64)),
    ("read_at 256 B", |counted| read(counted, 256)),
    ("read_at 4 KiB", |counted| read(counted, 4096)),
    ("write_at 7 B", |counted| write(counted, 7)),
    ("write_at 64 B", |counted| write(counted, 64)),
    ("write_at 256 B", |counted| write(counted, 256)),
    ("write_at 4 KiB", |counted| write(counted, 4096)),
    ("fill 64 B", |counted| fill(counted, 64)),
    ("fill 4 KiB", |counted| fill(counted, 4096)),
    ("copy_to 4 KiB", |counted| {
        with_view(|view| {
            let (from, to) = view.split_at(LEN / 2)?;
            counted.calls(&mut || black_box(&from).copy_to(*black_box(&to)))
        })
    }),
    ("sysv life", |counted| {
        counted.calls(&mut || {
            let key = shm_sysv::Key::PRIVATE;
            let segment = shm_sysv::Segment::create(key, Size::KIB)?;
            segment.map()?.bytes().set(0, 1_u8)
        })
    }),
    ("posix life", |counted| {
        // Of a fixed length, since the name is copied.
        let name = format!("/shm-instructions-{:010}", std::process::id());
        let name = shm_posix::Name::new(name)?;
        counted.calls(&mut || {
            let segment = shm_posix::Segment::create(&name, Size::KIB)?;
            segment.map()?.bytes().set(0, 1_u8)
        })
    }),
    ("memfd life", |counted| {
        let label = shm_memfd::Label::new("instructions")?;
        counted.calls(&mut || {
            let segment = shm_memfd::Segment::create(&label, Size::KIB)?;
            segment.map()?.bytes().set(0, 1_u8)
        })
    }),
    ("pass 1 descriptor", |counted| pass(counted, 1)),
    ("pass 16 descriptors", |counted| pass(counted, 16)),
];

/// Runs the path of that name.
pub(crate) fn run(name: &str) -> Result<()> {
    match PATHS.iter().find(|(path, _)| *path == name) {
        Some((_, path)) => path(Counted(())),
        None => Counted(()).calls(&mut || Ok(())),
    }
}

const LEN: usize = 8192;

fn with_view(
    with: impl FnOnce(&SharedBytes<'_, ReadWrite>) -> Result<()>,
) -> Result<()> {
    // Ordinary memory does, and its place in a cache line is always the same.
    let mut memory = vec![0; LEN + 64];
    let skip = memory.as_ptr().align_offset(64);
    with(&SharedBytes::from_mut(&mut memory[skip..][..LEN]))
}

fn read(counted: Counted, len: usize) -> Result<()> {
    let mut private = vec![0; LEN];
    let skip = private.as_ptr().align_offset(64);
    let private = &mut private[skip..][..len];
    with_view(|view| {
        counted
            .calls(&mut || black_box(view).read_at(0, black_box(&mut *private)))
    })
}

fn write(counted: Counted, len: usize) -> Result<()> {
    let private = vec![0; len];
    with_view(|view| {
        counted.calls(&mut || black_box(view).write_at(0, black_box(&private)))
    })
}

fn fill(counted: Counted, len: usize) -> Result<()> {
    with_view(|view| {
        let part = view.subslice(0, len)?;
        counted.calls(&mut || {
            black_box(&part).fill(7);
            Ok(())
        })
    })
}

fn pass(counted: Counted, count: usize) -> Result<()> {
    let Ok((from, to)) = UnixStream::pair() else {
        return Err(shm_common::Error::EmptyMessage);
    };
    let label = shm_memfd::Label::new("instructions")?;
    let segment = shm_memfd::Segment::create(&label, Size::KIB)?;
    let descriptors = vec![segment.as_fd(); count];
    counted.calls(&mut || {
        transfer::send(&from, b"!", &descriptors)?;
        black_box(transfer::receive(&to, &mut [0; 1], count)?);
        Ok(())
    })
}
