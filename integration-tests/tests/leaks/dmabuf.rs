//! dma-buf: what must not be left is a descriptor, of a buffer or of a driver.

use std::fs::File;
use std::mem::forget;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use integration_tests::alone::alone;
use integration_tests::leaks::{assert_none, unique_name};
use shm_dmabuf::{
    CpuAccess, Error, Heap, Label, PageSize, Segment, SegmentOptions, Size,
};
use shm_memfd::{Seals, transfer};

use crate::noticed::assert_noticed;
use crate::{
    catch, leaves_nothing, panic_half_way, with_room_for_few_descriptors,
};

/// Why this machine, or this user, has not both of the drivers; none: it has.
pub(crate) fn unavailable() -> Option<String> {
    if let Err(error) = Heap::open("system") {
        return Some(error.to_string());
    }
    let device = "/dev/udmabuf";
    let opened = File::options().read(true).write(true).open(device);
    opened.err().map(|error| format!("cannot open {device}: {error}"))
}

/// Short enough: the kernel takes 31 bytes.
fn label() -> Label {
    Label::new(unique_name("l")).unwrap()
}

fn heap() -> Heap {
    Heap::open("system").unwrap()
}

fn segment() -> Segment {
    Segment::create(&heap(), Size::KIB).unwrap()
}

fn page() -> usize {
    PageSize::base().bytes()
}

fn memfd() -> shm_memfd::Segment {
    let label = unique_name("leaks").parse().unwrap();
    shm_memfd::Segment::create(&label, Size::new(2 * page()).unwrap()).unwrap()
}

fn copy(fd: impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().unwrap()
}

leaves_nothing! {
    fn creating_mapping_and_dropping_leaves_nothing() {
        let segment = Segment::create(&heap(), Size::MIB).unwrap();
        let mapping = segment.map().unwrap();
        mapping.bytes().fill(7);
        drop(segment);
        drop(mapping);
    }

    fn making_one_of_a_memfd_and_of_several_ranges_leaves_nothing() {
        let memfd = memfd();
        let options = SegmentOptions::new().label(label());
        let whole = options.from_memfd(&memfd, 0..2 * page()).unwrap();
        let mapping = whole.map().unwrap();
        drop(whole);
        mapping.bytes().fill(7);
        let parts =
            [(memfd.as_fd(), page()..2 * page()), (memfd.as_fd(), 0..page())];
        options.from_memfds(&parts).unwrap().map().unwrap();
    }

    /// The memfd can be sealed again: nothing pins its pages.
    fn a_buffer_that_is_dropped_leaves_its_memfd_alone() {
        let memfd = memfd();
        let mapping = {
            let buffer = Segment::from_memfd(&memfd, 0..page()).unwrap();
            buffer.map().unwrap()
        };
        let error = memfd.seal(Seals::WRITE).unwrap_err();
        assert!(matches!(error, Error::Busy(_)), "{error}");
        drop(mapping);
        memfd.freeze().unwrap().map().unwrap();
    }

    fn opening_for_writing_and_for_reading_leaves_nothing() {
        let created = segment();
        let opened = Segment::open(copy(&created)).unwrap();
        opened.map().unwrap();
        opened.map_read_only().unwrap();
        Segment::open_read_only(copy(&created)).unwrap().map().unwrap();
    }

    fn opening_descriptors_that_are_refused_leaves_nothing() {
        let file = File::open("/proc/self/exe").unwrap();
        let error = Segment::open(file).unwrap_err();
        assert!(matches!(error, Error::WrongKind { .. }), "{error}");
        let (socket, _) = UnixStream::pair().unwrap();
        let error = Segment::open(socket).unwrap_err();
        assert!(matches!(error, Error::WrongKind { .. }), "{error}");
        let error = Segment::open(memfd()).unwrap_err();
        assert!(matches!(error, Error::WrongKind { .. }), "{error}");
    }

    fn making_one_of_what_is_refused_leaves_nothing() {
        let memfd = memfd();
        let refused = Segment::from_memfd(&memfd, 0..3 * page());
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::OutOfBounds { .. }), "{error}");
        let error = Segment::from_memfd(&memfd, 0..1).unwrap_err();
        assert!(matches!(error, Error::Misaligned { .. }), "{error}");
        // One that is refused takes along those before it.
        let file = File::open("/proc/self/exe").unwrap();
        let parts = [(memfd.as_fd(), 0..page()), (file.as_fd(), 0..page())];
        let error = Segment::from_memfds(&parts).unwrap_err();
        assert!(matches!(error, Error::WrongKind { .. }), "{error}");
        let frozen = memfd.freeze().unwrap();
        let error = Segment::from_memfd(&frozen, 0..page()).unwrap_err();
        assert!(matches!(error, Error::PermissionDenied(_)), "{error}");
    }

    fn creating_more_than_there_is_leaves_nothing() {
        let error = heap().allocate("1TiB".parse().unwrap()).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
        let error = Heap::open("missing").unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }

    fn taking_turns_with_devices_leaves_nothing() {
        let segment = segment();
        let outer = segment.cpu_access(CpuAccess::Write).unwrap();
        segment.cpu_access(CpuAccess::Read).unwrap().end().unwrap();
        drop(outer);
        // Whether the kernel has them or not.
        if let Ok(file) = segment.export_sync_file(CpuAccess::Read) {
            segment.import_sync_file(file, CpuAccess::Write).unwrap();
        }
        let _ = segment.import_sync_file(&segment, CpuAccess::Write);
    }

    fn a_panic_half_way_leaves_nothing() {
        catch(|| {
            let segment = segment();
            let _mapping = segment.map().unwrap();
            let _access = segment.cpu_access(CpuAccess::ReadWrite).unwrap();
            let _copy = copy(&segment);
            panic_half_way();
        });
    }

    fn handing_over_leaves_nothing() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let segment = segment();
        transfer::send(&ours, b"!", &[segment.as_fd(); 3]).unwrap();
        let message = transfer::receive(&theirs, &mut [0], 3).unwrap();
        for fd in message.descriptors {
            Segment::open(fd).unwrap().map().unwrap();
        }
        // And what nobody fetches goes with the socket.
        transfer::send(&ours, b"!", &[segment.as_fd()]).unwrap();
    }

    also creating_and_making_with_few_descriptors_leaves_nothing;
    also what_is_left_of_a_buffer_is_noticed;
}

fn creating_and_making_with_few_descriptors_leaves_nothing() {
    alone(|| {
        with_room_for_few_descriptors(|| {
            let options = SegmentOptions::new().label(label());
            options.create(&Heap::open("system")?, Size::KIB)?.map()?;
            Ok(())
        });
        let memfd = memfd();
        with_room_for_few_descriptors(|| {
            Segment::from_memfd(&memfd, 0..page())?.map()?;
            Ok(())
        });
    });
}

fn what_is_left_of_a_buffer_is_noticed() {
    alone(|| {
        let segment = segment();
        segment.set_name(&label()).unwrap();
        let file = "/dmabuf:shmtest-";
        let copied = || forget(copy(&segment));
        assert_noticed(copied, &format!(": {file}"));
        assert_noticed(|| forget(segment.map().unwrap()), file);
        assert_noticed(|| forget(heap()), ": /dev/dma_heap/system");
        assert_none(|| {});
    });
}
