//! Labels: every text is one or is refused with the reason, and the kernel
//! takes all that are not refused.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

use proptest::prelude::*;
use shm_common::NameFault;
use shm_memfd::{Error, Label, Segment, Size};

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
        prop::collection::vec(harmless, 245..255),
    ]
}

/// Whether a fault is to be found in a label.
fn applies(fault: NameFault, label: &[u8]) -> bool {
    match fault {
        NameFault::Empty => label.is_empty(),
        NameFault::Nul => label.contains(&0),
        NameFault::Slash => label.contains(&b'/'),
        NameFault::Dots => label == b"." || label == b"..",
        NameFault::TooLong { max } => max == 249 && label.len() > 249,
        _ => false,
    }
}

const FAULTS: [NameFault; 5] = [
    NameFault::Empty,
    NameFault::Nul,
    NameFault::Slash,
    NameFault::Dots,
    NameFault::TooLong { max: 249 },
];

fn fault(text: &[u8]) -> NameFault {
    match Label::new(OsStr::from_bytes(text)) {
        Err(Error::InvalidName { name, fault }) => {
            assert_eq!(name.as_bytes(), text, "the error holds the text");
            fault
        }
        other => panic!("{text:?} gave {other:?}"),
    }
}

#[test]
fn what_is_no_label_is_refused_with_the_reason() {
    assert_eq!(fault(b""), NameFault::Empty);
    assert_eq!(fault(b"."), NameFault::Dots);
    assert_eq!(fault(b".."), NameFault::Dots);
    assert_eq!(fault(b"a\0b"), NameFault::Nul);
    assert_eq!(fault(b"a\0"), NameFault::Nul);
    // Unlike a name, a label has no slash before it.
    assert_eq!(fault(b"/a"), NameFault::Slash);
    assert_eq!(fault(b"a/b"), NameFault::Slash);
    assert_eq!(fault(&[b'a'; 250]), NameFault::TooLong { max: 249 });
    assert!(Label::new("...").is_ok());
    assert!(Label::new("a".repeat(249)).is_ok());
}

proptest! {
    #[test]
    fn any_text_is_a_label_or_is_refused_with_the_reason(text in text()) {
        match Label::new(OsStr::from_bytes(&text)) {
            Ok(label) => {
                for fault in FAULTS {
                    prop_assert!(!applies(fault, &text), "{label:?}: {fault:?}");
                }
            }
            Err(Error::InvalidName { name, fault }) => {
                prop_assert_eq!(name.as_bytes(), &text);
                prop_assert!(applies(fault, &text), "{text:?}: {fault:?}");
            }
            Err(error) => prop_assert!(false, "{error:?}"),
        }
    }

    #[test]
    fn a_label_reads_back(text in "[^/\0]{1,60}") {
        prop_assume!(text != "." && text != "..");
        let label: Label = text.parse().unwrap();
        prop_assert_eq!(&label.to_string(), &text);
        prop_assert_eq!(label.as_c_str().to_str().unwrap(), text);
    }

    #[test]
    fn whatever_is_a_label_makes_a_segment_that_shows_it(text in text()) {
        let Ok(label) = Label::new(OsStr::from_bytes(&text)) else {
            return Ok(());
        };
        let segment = Segment::create(&label, Size::KIB).unwrap();
        let fd = segment.as_fd().as_raw_fd();
        let shown = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        let expected = [b"/memfd:", &text[..], b" (deleted)"].concat();
        prop_assert_eq!(shown.as_os_str().as_bytes(), expected);
    }
}
