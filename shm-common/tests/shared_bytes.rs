//! Views over heap memory: every offset, length and alignment, compared with
//! what the same operation does to a plain slice.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use shm_common::{AsSharedBytes, Error, ReadOnly, ReadWrite, SharedBytes};

/// Offsets and lengths that matter: inside, just past the end, and those whose
/// sum wraps around.
fn position() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 0..600_usize,
        1 => Just(usize::MAX),
        1 => (usize::MAX - 600)..usize::MAX,
        1 => (isize::MAX as usize - 2)..(isize::MAX as usize + 2),
    ]
}

/// A memory of 0..512 bytes that begins at any alignment.
fn memory() -> impl Strategy<Value = (Vec<u8>, usize)> {
    (prop::collection::vec(any::<u8>(), 64..576), 0..64_usize)
}

fn inside(offset: usize, len: usize, size: usize) -> bool {
    offset.checked_add(len).is_some_and(|end| end <= size)
}

proptest! {
    #[test]
    fn read_at_equals_a_slice_copy_or_reads_nothing(
        (mut memory, skip) in memory(),
        offset in position(),
        len in 0..600_usize,
    ) {
        let plain = memory[skip..].to_vec();
        let view = SharedBytes::from_mut(&mut memory[skip..]);
        let mut buffer = vec![0xa5; len];
        let result = view.as_read_only().read_at(offset, &mut buffer);
        if inside(offset, len, plain.len()) {
            result.unwrap();
            prop_assert_eq!(&buffer, &plain[offset..offset + len]);
        } else {
            let size = plain.len();
            prop_assert_eq!(
                result,
                Err(Error::OutOfBounds { offset, len, size })
            );
            prop_assert_eq!(buffer, vec![0xa5; len]);
        }
    }

    #[test]
    fn write_at_changes_exactly_the_bytes_named(
        (mut memory, skip) in memory(),
        offset in position(),
        data in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut plain = memory.clone();
        let view = SharedBytes::from_mut(&mut memory[skip..]);
        let size = view.len();
        let result = view.write_at(offset, &data);
        if inside(offset, data.len(), size) {
            result.unwrap();
            plain[skip + offset..][..data.len()].copy_from_slice(&data);
        } else {
            let len = data.len();
            prop_assert_eq!(
                result,
                Err(Error::OutOfBounds { offset, len, size })
            );
        }
        prop_assert_eq!(memory, plain);
    }

    #[test]
    fn fill_and_subslice_agree_with_a_slice(
        (mut memory, skip) in memory(),
        offset in position(),
        len in position(),
        value: u8,
    ) {
        let mut plain = memory.clone();
        let view = SharedBytes::from_mut(&mut memory[skip..]);
        let size = view.len();
        match view.subslice(offset, len) {
            Ok(part) => {
                prop_assert!(inside(offset, len, size));
                prop_assert_eq!(part.len(), len);
                prop_assert_eq!(part.is_empty(), len == 0);
                prop_assert_eq!(part.to_vec(), &plain[skip + offset..][..len]);
                part.fill(value);
                plain[skip + offset..][..len].fill(value);
            }
            Err(error) => {
                prop_assert!(!inside(offset, len, size));
                prop_assert_eq!(
                    error,
                    Error::OutOfBounds { offset, len, size }
                );
            }
        }
        prop_assert_eq!(memory, plain);
    }

    #[test]
    fn split_at_gives_both_halves_or_neither(
        (mut memory, skip) in memory(),
        offset in position(),
    ) {
        let plain = memory[skip..].to_vec();
        let view = SharedBytes::from_mut(&mut memory[skip..]);
        match view.split_at(offset) {
            Ok((head, tail)) => {
                prop_assert_eq!(head.to_vec(), &plain[..offset]);
                prop_assert_eq!(tail.to_vec(), &plain[offset..]);
            }
            Err(_) => prop_assert!(offset > plain.len()),
        }
    }

    #[test]
    fn values_come_back_at_any_offset(
        (mut memory, skip) in memory(),
        offset in position(),
        value: u128,
    ) {
        let view = SharedBytes::from_mut(&mut memory[skip..]);
        macro_rules! round_trip {
            ($($integer:ty),*) => {$(
                let bytes = value.to_ne_bytes();
                let part = *bytes.first_chunk().unwrap();
                let number = <$integer>::from_ne_bytes(part);
                let set = view.set(offset, number);
                let len = size_of::<$integer>();
                prop_assert_eq!(set.is_ok(), inside(offset, len, view.len()));
                if set.is_ok() {
                    prop_assert_eq!(view.get::<$integer>(offset), Ok(number));
                }
            )*};
        }
        round_trip!(u8, u16, u32, u64, u128, i64);
        if view.set(offset, value.to_ne_bytes()).is_ok() {
            let bytes = view.get::<[u8; 16]>(offset).unwrap();
            prop_assert_eq!(bytes, value.to_ne_bytes());
        }
    }

    #[test]
    fn copy_to_is_memmove_also_where_views_overlap(
        (mut memory, skip) in memory(),
        from in 0..300_usize,
        to in 0..300_usize,
        len in 0..300_usize,
    ) {
        let mut plain = memory.clone();
        let view = SharedBytes::from_mut(&mut memory[skip..]);
        let (Ok(source), Ok(target)) =
            (view.subslice(from, len), view.subslice(to, len))
        else {
            return Ok(());
        };
        source.as_read_only().copy_to(target).unwrap();
        plain[skip..].copy_within(from..from + len, to);
        prop_assert_eq!(memory, plain);
    }

    #[test]
    fn atomics_are_given_only_where_they_are_aligned_and_inside(
        (mut memory, skip) in memory(),
        offset in position(),
    ) {
        macro_rules! check {
            ($($get:ident $load:ident $integer:ty),*) => {$(
                // A word is of one width from one plain write to the next:
                // Miri does not model it otherwise, and panics.
                memory.fill(0);
                let view = SharedBytes::from_mut(&mut memory[skip..]);
                let start = view.as_ptr().addr();
                let len = size_of::<$integer>();
                let is_inside = inside(offset, len, view.len());
                let aligned = start.wrapping_add(offset).is_multiple_of(len);
                match view.$get(offset) {
                    Ok(word) => {
                        prop_assert!(is_inside && aligned);
                        word.store(7, Ordering::Relaxed);
                        prop_assert_eq!(view.get::<$integer>(offset), Ok(7));
                        prop_assert_eq!(view.$load(offset), Ok(7));
                    }
                    Err(Error::OutOfBounds { .. }) => prop_assert!(!is_inside),
                    Err(Error::Misaligned { offset: at, align }) => {
                        prop_assert!(is_inside && !aligned);
                        prop_assert_eq!((at, align), (offset, len));
                    }
                    Err(other) => panic!("{other}"),
                }
            )*};
        }
        check!(
            atomic_u8 load_u8 u8,
            atomic_u16 load_u16 u16,
            atomic_u32 load_u32 u32,
            atomic_i32 load_i32 i32,
            atomic_u64 load_u64 u64,
            atomic_i64 load_i64 i64,
            atomic_usize load_usize usize
        );
    }
}

#[test]
fn copy_to_refuses_another_length_and_copies_nothing() {
    let (mut from, mut to) = ([1; 8], [2; 9]);
    let error = SharedBytes::from_mut(&mut from)
        .copy_to(SharedBytes::from_mut(&mut to));
    assert_eq!(error, Err(Error::WrongSize { expected: 8, actual: 9 }));
    assert_eq!(to, [2; 9]);
}

#[test]
fn an_empty_view_has_nothing_to_give() {
    let view = SharedBytes::from_mut(&mut []);
    assert!(view.is_empty());
    assert_eq!(view.to_vec(), []);
    assert_eq!(view.get::<()>(0), Ok(()));
    assert!(view.get::<u8>(0).is_err());
    assert!(view.atomic_u8(0).is_err());
    assert!(view.read_at(0, &mut []).is_ok());
    assert!(view.read_at(1, &mut []).is_err());
    view.fill(1);
}

#[test]
fn a_slice_is_the_same_bytes_while_nobody_else_touches_them() {
    let mut memory = *b"0123456789";
    let view = SharedBytes::from_mut(&mut memory);
    #[expect(unsafe_code, reason = "the escapes are tested here")]
    // SAFETY: 1. this thread has the only view, and 2. wrote the bytes itself.
    let slice = unsafe { view.as_slice() };
    assert_eq!(slice, b"0123456789");
    #[expect(unsafe_code, reason = "the escapes are tested here")]
    // SAFETY: as above; `slice` is not used any more.
    let slice = unsafe { view.as_mut_slice() };
    slice.reverse();
    assert_eq!(memory, *b"9876543210");
}

#[test]
fn pointers_to_a_mapping_show_its_bytes() {
    fn first(mapping: impl AsSharedBytes) -> u8 {
        mapping.as_shared_bytes().get(0).unwrap()
    }
    let mut memory = [7; 4];
    let view = SharedBytes::from_mut(&mut memory);
    assert_eq!(first(view), 7);
    assert_eq!(first(view), 7);
    assert_eq!(first(Box::new(view)), 7);
    assert_eq!(first(Arc::new(view.as_read_only())), 7);
}

#[test]
fn a_view_says_where_it_is_and_whether_it_writes_but_not_what() {
    let mut memory = *b"secret";
    let view = SharedBytes::from_mut(&mut memory);
    let text = format!("{view:?} {:?}", view.as_read_only());
    assert!(text.contains("len: 6"), "{text}");
    assert!(text.contains("writable: true"), "{text}");
    assert!(text.contains("writable: false"), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn views_travel_between_threads() {
    fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<SharedBytes<'static, ReadOnly>>();
    is_send_and_sync::<SharedBytes<'static, ReadWrite>>();

    let mut memory = [0; 64];
    // Bytes may begin anywhere.
    let start = memory.as_ptr().align_offset(4);
    let view = SharedBytes::from_mut(&mut memory[start..]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            view.write_at(8, b"message").unwrap();
            view.atomic_u32(0).unwrap().store(1, Ordering::Release);
        });
        while view.load_u32(0).unwrap() == 0 {
            std::thread::yield_now();
        }
        assert_eq!(view.get(8), Ok(*b"message"));
    });
}
