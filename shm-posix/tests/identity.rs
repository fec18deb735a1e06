//! Names: every text is one or is refused with the reason, and the kernel takes
//! all that are not refused.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use integration_tests::leaks;
use proptest::prelude::*;
use shm_common::NameFault;
use shm_posix::{Error, Name, Segment, Size};

/// Texts in which the bytes that matter are frequent, of lengths around the
/// limit.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        1 => Just(0),
        1 => Just(b'/'),
        2 => Just(b'.'),
        20 => any::<u8>(),
    ];
    let harmless = any::<u8>().prop_map(|byte| byte.max(b'0'));
    prop_oneof![
        prop::collection::vec(byte, 0..6),
        prop::collection::vec(harmless, 250..260),
    ]
}

/// Whether a fault is to be found in the part of a name after its slash.
fn applies(fault: NameFault, tail: &[u8]) -> bool {
    match fault {
        NameFault::Empty => tail.is_empty(),
        NameFault::Nul => tail.contains(&0),
        NameFault::Slash => tail.contains(&b'/'),
        NameFault::Dots => tail == b"." || tail == b"..",
        NameFault::TooLong { max } => max == 255 && tail.len() > 255,
        _ => false,
    }
}

const FAULTS: [NameFault; 5] = [
    NameFault::Empty,
    NameFault::Nul,
    NameFault::Slash,
    NameFault::Dots,
    NameFault::TooLong { max: 255 },
];

fn fault(text: &[u8]) -> NameFault {
    match Name::new(OsStr::from_bytes(text)) {
        Err(Error::InvalidName { name, fault }) => {
            assert_eq!(name.as_bytes(), text, "the error holds the text");
            fault
        }
        other => panic!("{text:?} gave {other:?}"),
    }
}

#[test]
fn what_is_no_name_is_refused_with_the_reason() {
    assert_eq!(fault(b""), NameFault::Empty);
    assert_eq!(fault(b"/"), NameFault::Empty);
    assert_eq!(fault(b"."), NameFault::Dots);
    assert_eq!(fault(b"/.."), NameFault::Dots);
    assert_eq!(fault(b"a\0b"), NameFault::Nul);
    assert_eq!(fault(b"a\0"), NameFault::Nul);
    assert_eq!(fault(b"//a"), NameFault::Slash);
    assert_eq!(fault(b"a/b"), NameFault::Slash);
    assert_eq!(fault(b"a/"), NameFault::Slash);
    assert_eq!(fault(&[b'a'; 256]), NameFault::TooLong { max: 255 });
    assert!(Name::new("...").is_ok());
    assert!(Name::new("/.a").is_ok());
    assert!(Name::new("a".repeat(255)).is_ok());
}

#[test]
fn a_name_with_the_most_bytes_makes_a_segment() {
    let unique = leaks::unique_name("longest-");
    let longest = unique.clone() + &"x".repeat(Name::MAX_LEN - unique.len());
    let name = Name::new(&longest).unwrap();
    let segment = Segment::create(&name, Size::KIB).unwrap();
    assert_eq!(Segment::open(&name).unwrap().len(), segment.len());
    drop(segment);
    assert!(matches!(Segment::open(&name), Err(Error::NotFound(_))));
}

proptest! {
    #[test]
    fn any_text_is_a_name_or_is_refused_with_the_reason(text in text()) {
        let tail = text.strip_prefix(b"/").unwrap_or(&text);
        match Name::new(OsStr::from_bytes(&text)) {
            Ok(name) => {
                for fault in FAULTS {
                    prop_assert!(!applies(fault, tail), "{name:?}: {fault:?}");
                }
            }
            Err(Error::InvalidName { name, fault }) => {
                prop_assert_eq!(name.as_bytes(), &text);
                prop_assert!(applies(fault, tail), "{text:?}: {fault:?}");
            }
            Err(error) => prop_assert!(false, "{error:?}"),
        }
    }

    #[test]
    fn a_name_reads_back_with_or_without_its_slash(tail in "[^/\0]{1,60}") {
        prop_assume!(tail != "." && tail != "..");
        let name = Name::new(&tail).unwrap();
        prop_assert_eq!(name.to_string(), format!("/{tail}"));
        prop_assert_eq!(name.to_string().parse::<Name>().unwrap(), name.clone());
        prop_assert_eq!(name.as_c_str().to_str().unwrap(), format!("/{tail}"));
        let path = format!("/dev/shm/{tail}");
        prop_assert_eq!(name.path().to_str().unwrap(), path);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_a_name_makes_a_segment_and_finds_it(tail in text()) {
        let mut bytes = leaks::unique_name("").into_bytes();
        bytes.extend(tail);
        let Ok(name) = Name::new(OsStr::from_bytes(&bytes)) else {
            return Ok(());
        };
        let segment = Segment::create(&name, Size::KIB).unwrap();
        segment.map().unwrap().bytes().write_at(0, b"found").unwrap();
        let found = Segment::open(&name).unwrap().map().unwrap();
        prop_assert_eq!(found.bytes().get(0), Ok(*b"found"));
    }
}
