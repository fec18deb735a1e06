//! Create, map, touch every page, unmap, remove: each mechanism against the
//! same system calls from C, and against what else there is.
#![expect(unsafe_code, reason = "calls C, and writes into the peers' mappings")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr;

use integration_tests::leaks::unique_name;
use nix::fcntl::{OFlag, posix_fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{
    MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap, shm_open,
    shm_unlink,
};
use nix::sys::stat::Mode;
use nix::unistd::ftruncate;
use shared_memory::ShmemConf;
use shm_common::{HugePages, PageSize, ReadWrite, Reserve, SharedBytes, Size};

use crate::markdown::Table;
use crate::measure::{Contender, Effort, compare_all, must};
use crate::trace::system_calls;

const SIZES: [usize; 3] = [4 << 10, 2 << 20, 256 << 20];

/// Ours may take this many times as long as the same calls from C.
const TARGET: f64 = 1.05;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mechanism {
    SysV,
    Posix,
    Memfd,
}

/// One row's circumstances.
#[derive(Clone, Copy)]
struct Life {
    mechanism: Mechanism,
    size: usize,
    reserve: bool,
    populate: bool,
    huge: Option<PageSize>,
}

pub(crate) fn run(effort: Effort) -> io::Result<String> {
    let mut text = format!(
        "One run is create → map → touch every page → unmap → remove. `C` makes \
         the same system calls in the same order; the target is at most \
         {TARGET} × C, and as many calls. The peers do less: `shared_memory`, \
         `memfd` + `memmap2` and `nix` alone neither seal, lock nor publish a \
         segment whole, and `nix` alone is also the fewest calls that do the \
         job. SysV has no peer: none of the crates speaks it. `nix` 0.31 knows \
         no `MFD_NOEXEC_SEAL`, so its memfds are executable.\n\n\
         The calls, as ptrace(2) saw them:\n\n"
    );
    for mechanism in [Mechanism::SysV, Mechanism::Posix, Mechanism::Memfd] {
        let mut before = Vec::new();
        for size in effort.among(&SIZES) {
            let life = Life {
                mechanism,
                size,
                reserve: true,
                populate: false,
                huge: None,
            };
            let calls = system_calls(|| life.ours())?;
            if calls != before {
                text += &format!(
                    "- {}, from {} up: `{}`\n",
                    mechanism.name(),
                    must(Size::new(size)),
                    calls.join(" ")
                );
            }
            before = calls;
        }
    }
    text += "\nBefore many pages are reserved, ours looks whether memory holds \
             them; C does not, and so those rows miss the number of calls.\n";
    for size in effort.among(&SIZES) {
        text += &format!("\n### {}\n\n", must(Size::new(size)));
        text += &table(effort.for_run_of(size), size)?.to_string();
    }
    text += &pool_note();
    Ok(text)
}

fn table(effort: Effort, size: usize) -> io::Result<Table> {
    let mut table = Table::new([
        "mechanism",
        "pages",
        "against",
        "ours",
        "theirs",
        "ours / theirs (median / least)",
        "calls",
        "target",
    ]);
    for life in lives(size) {
        let mut contenders = life.contenders();
        let times = compare_all(effort, &mut contenders);
        let mut calls = Vec::new();
        for contender in &mut contenders {
            calls.push(calls_of(contender)?);
        }
        for (at, theirs) in times.iter().enumerate().skip(1) {
            let ratio = times[0].over(*theirs);
            let target = match contenders[at].name {
                "C" if calls[0] != calls[at] => {
                    format!("calls **missed**, time {}", ratio.meets(TARGET))
                }
                "C" => ratio.meets(TARGET).to_string(),
                _ => String::new(),
            };
            table.row([
                life.mechanism.name().into(),
                life.pages(),
                contenders[at].name.into(),
                times[0].to_string(),
                theirs.to_string(),
                ratio.to_string(),
                format!("{} : {}", calls[0].len(), calls[at].len()),
                target,
            ]);
        }
    }
    Ok(table)
}

fn calls_of(contender: &mut Contender<'_>) -> io::Result<Vec<String>> {
    system_calls(|| {
        contender.run(1);
    })
}

fn lives(size: usize) -> Vec<Life> {
    let mut lives = Vec::new();
    for mechanism in [Mechanism::SysV, Mechanism::Posix, Mechanism::Memfd] {
        for reserve in [true, false] {
            for populate in [false, true] {
                let huge = None;
                let life = Life { mechanism, size, reserve, populate, huge };
                lives.push(life);
            }
        }
        if mechanism != Mechanism::Posix {
            let pools = PageSize::huge().unwrap_or_default().into_iter();
            let free =
                pools.filter(|page| in_pool(*page) * page.bytes() >= size);
            lives.extend(free.filter(|page| page.bytes() <= size).map(
                |page| {
                    let huge = Some(page);
                    Life {
                        mechanism,
                        size,
                        reserve: true,
                        populate: false,
                        huge,
                    }
                },
            ));
        }
    }
    lives
}

/// How many huge pages of this size are free.
fn in_pool(page: PageSize) -> usize {
    let path = format!(
        "/sys/kernel/mm/hugepages/hugepages-{}kB/free_hugepages",
        page.bytes() / 1024
    );
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

fn pool_note() -> String {
    let pools = PageSize::huge().unwrap_or_default();
    let has_any = pools.into_iter().any(|page| in_pool(page) > 0);
    match has_any {
        true => String::new(),
        false => "\nThis machine has no huge page in its pool \
                  (`vm.nr_hugepages` is 0), so there are no rows for them.\n"
            .into(),
    }
}

impl Mechanism {
    fn name(self) -> &'static str {
        match self {
            Self::SysV => "shm-sysv",
            Self::Posix => "shm-posix",
            Self::Memfd => "shm-memfd",
        }
    }
}

impl Life {
    fn pages(self) -> String {
        let huge = self.huge.map(|page| format!("{page} huge, "));
        let reserve = match self.reserve {
            true => "reserved",
            false => "on touch",
        };
        let populate = match self.populate {
            true => ", populated",
            false => "",
        };
        format!("{}{reserve}{populate}", huge.unwrap_or_default())
    }

    /// Ours, C, and the peers that can do this.
    fn contenders(self) -> Vec<Contender<'static>> {
        let mut all = vec![Contender::new("ours", move || self.ours())];
        all.push(self.c());
        let name = CString::new(format!("/{}", unique_name("nix")));
        let name = must(name);
        match self.mechanism {
            _ if self.huge.is_some() => {}
            Mechanism::SysV => {}
            Mechanism::Posix => {
                all.push(Contender::new("`nix` alone", move || {
                    must(self.nix_posix(&name));
                }));
                if !self.reserve && !self.populate {
                    all.push(Contender::new("`shared_memory`", move || {
                        must(self.shared_memory());
                    }));
                }
            }
            Mechanism::Memfd => {
                all.push(Contender::new("`nix` alone", move || {
                    must(self.nix_memfd());
                }));
                if !self.reserve {
                    all.push(Contender::new(
                        "`memfd` + `memmap2`",
                        move || {
                            must(self.memmap2());
                        },
                    ));
                }
            }
        }
        all
    }

    fn ours(self) {
        match self.mechanism {
            Mechanism::SysV => must(self.ours_sysv()),
            Mechanism::Posix => must(self.ours_posix()),
            Mechanism::Memfd => must(self.ours_memfd()),
        }
    }

    fn ours_sysv(self) -> shm_common::Result<()> {
        let segment = shm_sysv::SegmentOptions::new()
            .reserve(self.reserve_option())
            .huge_pages(self.huge_option())
            .create(shm_sysv::Key::PRIVATE, Size::new(self.size)?)?;
        let mapping = segment.map()?;
        if self.populate {
            mapping.populate()?;
        }
        self.touch(mapping.bytes());
        Ok(())
    }

    fn ours_posix(self) -> shm_common::Result<()> {
        thread_local! {
            static NAME: shm_posix::Name =
                must(shm_posix::Name::new(unique_name("ours")));
        }
        let segment = NAME.with(|name| {
            shm_posix::SegmentOptions::new()
                .reserve(self.reserve_option())
                .huge_pages(self.huge_option())
                .create(name, Size::new(self.size)?)
        })?;
        let mapping = segment.map()?;
        if self.populate {
            mapping.populate()?;
        }
        self.touch(mapping.bytes());
        Ok(())
    }

    fn ours_memfd(self) -> shm_common::Result<()> {
        let segment = shm_memfd::SegmentOptions::new()
            .reserve(self.reserve_option())
            .huge_pages(self.huge_option())
            .create(&shm_memfd::Label::new("ours")?, Size::new(self.size)?)?;
        let mapping = segment.map()?;
        if self.populate {
            mapping.populate()?;
        }
        self.touch(mapping.bytes());
        Ok(())
    }

    fn touch(self, bytes: SharedBytes<'_, ReadWrite>) {
        let page = self.huge.unwrap_or(PageSize::base()).bytes();
        for at in (0..bytes.len()).step_by(page) {
            must(bytes.set(at, 1_u8));
        }
    }

    fn reserve_option(self) -> Reserve {
        match self.reserve {
            true => Reserve::Now,
            false => Reserve::OnTouch,
        }
    }

    fn huge_option(self) -> HugePages {
        self.huge.map_or(HugePages::No, HugePages::Pool)
    }

    fn c(self) -> Contender<'static> {
        let how = c_int::from(self.reserve) | c_int::from(self.populate) << 1;
        let page = self.huge.map_or(0, PageSize::bytes);
        let size = self.size;
        let name = unique_name("c");
        let path = must(CString::new(format!("/dev/shm/{name}")));
        let name = must(CString::new(format!("/{name}")));
        Contender::new("C", move || {
            let errno = match self.mechanism {
                // SAFETY: takes numbers only.
                Mechanism::SysV => unsafe { c_sysv_life(size, how, page) },
                // SAFETY: two C strings, borrowed for the call.
                Mechanism::Posix => unsafe {
                    c_posix_life(name.as_ptr(), path.as_ptr(), size, how)
                },
                // SAFETY: a C string, borrowed for the call.
                Mechanism::Memfd => unsafe {
                    c_memfd_life(c"c".as_ptr(), size, how, page)
                },
            };
            assert_eq!(errno, 0, "errno of C");
        })
    }

    fn nix_posix(self, name: &CStr) -> nix::Result<()> {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR;
        let fd = shm_open(name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let lived = self.nix_map(&fd);
        shm_unlink(name)?;
        lived
    }

    fn nix_memfd(self) -> nix::Result<()> {
        self.nix_map(&memfd_create(c"nix", MFdFlags::MFD_CLOEXEC)?)
    }

    fn nix_map(self, fd: impl AsFd) -> nix::Result<()> {
        let len = self.size.cast_signed() as libc::off_t;
        match self.reserve {
            true => posix_fallocate(&fd, 0, len)?,
            false => ftruncate(&fd, len)?,
        }
        let size = NonZeroUsize::new(self.size).ok_or(nix::Error::EINVAL)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel picks unused addresses.
        let start =
            unsafe { mmap(None, size, access, MapFlags::MAP_SHARED, fd, 0)? };
        if self.populate {
            let advice = MmapAdvise::MADV_POPULATE_WRITE;
            // SAFETY: the range just mapped; contents stay.
            unsafe { madvise(start, self.size, advice)? };
        }
        // SAFETY: `size` writable bytes that only we know of.
        unsafe { self.touch_raw(start.as_ptr().cast()) };
        // SAFETY: the range just mapped, not used after this.
        unsafe { munmap(start, self.size) }
    }

    /// # Safety
    ///
    /// `self.size` bytes from `start` can be written and nobody else uses them.
    unsafe fn touch_raw(self, start: *mut u8) {
        for at in (0..self.size).step_by(PageSize::base().bytes()) {
            // SAFETY: inside, by the caller.
            unsafe { ptr::write_volatile(start.wrapping_add(at), 1) };
        }
    }

    fn shared_memory(self) -> Result<(), shared_memory::ShmemError> {
        thread_local! {
            static NAME: String = format!("/{}", unique_name("peer"));
        }
        let conf = NAME.with(|name| ShmemConf::new().os_id(name));
        let segment = conf.size(self.size).create()?;
        // SAFETY: `size` writable bytes that only we know of.
        unsafe { self.touch_raw(segment.as_ptr()) };
        Ok(())
    }

    fn memmap2(self) -> Result<(), memfd::Error> {
        let memfd = memfd::MemfdOptions::default()
            .allow_sealing(false)
            .create("memmap2")?;
        let file = memfd.as_file();
        must(file.set_len(self.size as u64));
        let mut options = memmap2::MmapOptions::new();
        if self.populate {
            options.populate();
        }
        let mapping = must(options.len(self.size).map_raw(file));
        // SAFETY: `size` writable bytes that only we know of.
        unsafe { self.touch_raw(mapping.as_mut_ptr()) };
        Ok(())
    }
}

unsafe extern "C" {
    fn c_sysv_life(len: usize, how: c_int, page: usize) -> c_int;
    fn c_posix_life(
        name: *const c_char,
        path: *const c_char,
        len: usize,
        how: c_int,
    ) -> c_int;
    fn c_memfd_life(
        label: *const c_char,
        len: usize,
        how: c_int,
        page: usize,
    ) -> c_int;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mechanism_makes_the_calls_of_c_in_their_order() {
        let all_small = lives(4 << 10);
        // So many that a reservation would ask for the memory left.
        let many = lives(32 << 20).into_iter();
        let on_touch = many.filter(|life| !life.reserve && !life.populate);
        for life in all_small.into_iter().chain(on_touch) {
            let ours = system_calls(|| life.ours()).unwrap();
            let c = calls_of(&mut life.c()).unwrap();
            let name = life.mechanism.name();
            assert_eq!(ours, c, "{name}, {}", life.pages());
        }
    }
}
