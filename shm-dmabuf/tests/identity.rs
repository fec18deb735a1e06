//! Labels: every text is one or is refused with the reason.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use proptest::prelude::*;
use shm_common::NameFault;
use shm_dmabuf::{Error, Label};

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
        prop::collection::vec(harmless, 26..36),
    ]
}

fn applies(fault: NameFault, text: &[u8]) -> bool {
    match fault {
        NameFault::Empty => text.is_empty(),
        NameFault::Nul => text.contains(&0),
        NameFault::Slash => text.contains(&b'/'),
        NameFault::Dots => text == b"." || text == b"..",
        NameFault::TooLong { max } => max == 31 && text.len() > 31,
        _ => false,
    }
}

const FAULTS: [NameFault; 5] = [
    NameFault::Empty,
    NameFault::Nul,
    NameFault::Slash,
    NameFault::Dots,
    NameFault::TooLong { max: 31 },
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
    assert_eq!(fault(b"/a"), NameFault::Slash);
    assert_eq!(fault(b"a/b"), NameFault::Slash);
    assert_eq!(fault(&[b'a'; 32]), NameFault::TooLong { max: 31 });
    assert!(Label::new("...").is_ok());
    assert!(Label::new("a".repeat(31)).is_ok());
}

proptest! {
    #[test]
    fn any_text_is_a_label_or_is_refused_with_the_reason(text in text()) {
        match Label::new(OsStr::from_bytes(&text)) {
            Ok(label) => {
                for fault in FAULTS {
                    prop_assert!(!applies(fault, &text), "{label}: {fault:?}");
                }
                prop_assert_eq!(label.as_c_str().to_bytes(), text);
            }
            Err(Error::InvalidName { name, fault }) => {
                prop_assert_eq!(name.as_bytes(), &text);
                prop_assert!(applies(fault, &text), "{text:?}: {fault:?}");
            }
            Err(error) => prop_assert!(false, "{error:?}"),
        }
    }

    #[test]
    fn a_label_reads_back(text in "[^/\0]{1,10}") {
        prop_assume!(text != "." && text != "..");
        let label: Label = text.parse().unwrap();
        prop_assert_eq!(label.to_string(), format!("dmabuf:{text}"));
        prop_assert_eq!(label.as_c_str().to_str().unwrap(), text);
    }
}
