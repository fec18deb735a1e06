//! Keys and identifiers: every text is one or is refused with the reason.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;
use shm_common::NameFault;
use shm_sysv::{Error, Id, Key, Result};

/// Digits and what looks like digits, of lengths around the limits.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "(0x|0X|-|\\+|key )?[0-9a-fA-F]{0,11}",
        "[-+ 0-9x]{0,4}",
        "\\PC{0,8}",
        any::<i64>().prop_map(|number| number.to_string()),
    ]
}

fn fault<T: Debug>(text: &str, parsed: Result<T>) -> NameFault {
    match parsed {
        Err(Error::InvalidName { name, fault }) => {
            assert_eq!(name, text, "the error holds the text");
            fault
        }
        other => panic!("{text:?} gave {other:?}"),
    }
}

#[test]
fn what_is_no_key_is_refused_with_the_reason() {
    for text in [
        "",
        " 1",
        "1 ",
        "0x",
        "0x+1",
        "0x-1",
        "0x1g",
        "1.0",
        "a",
        "-",
        "2147483648",
        "-2147483649",
        "0x100000000",
        "1\0",
    ] {
        let parsed = text.parse::<Key>();
        assert_eq!(fault(text, parsed), NameFault::NotANumber);
    }
    assert_eq!("0xffffffff".parse::<Key>().unwrap(), Key::new(-1));
    assert_eq!("-2147483648".parse::<Key>().unwrap(), Key::new(i32::MIN));
    assert_eq!("0".parse::<Key>().unwrap(), Key::PRIVATE);
}

#[test]
fn what_is_no_id_is_refused_with_the_reason() {
    for text in ["", "-1", "-01", "-0x1", "0x1", "2147483648", "id 1", "1\0"] {
        let parsed = text.parse::<Id>();
        assert_eq!(fault(text, parsed), NameFault::NotANumber);
    }
    assert_eq!(fault("-1", Id::new(-1)), NameFault::NotANumber);
    assert_eq!("0".parse::<Id>().unwrap(), Id::new(0).unwrap());
}

#[test]
fn a_path_gives_the_key_that_ftok_gives() {
    // One that is there wherever the test runs, also without its sources.
    let path = std::env::current_exe().unwrap();
    let file = fs::metadata(&path).unwrap();
    let low = (file.dev() & 0xff) << 16 | (file.ino() & 0xffff);
    for project in [0, 1, b'x', 0xff] {
        let expected = u64::from(project) << 24 | low;
        let key = Key::from_path(&path, project).unwrap();
        assert_eq!(u64::from(key.as_raw().cast_unsigned()), expected);
    }
}

#[test]
fn a_path_that_leads_nowhere_gives_no_key() {
    let missing = Key::from_path("/no/such/file", 1).unwrap_err();
    assert!(matches!(missing, Error::NotFound(_)), "{missing:?}");
    assert!(missing.to_string().contains("/no/such/file"), "{missing}");
    let nul = Key::from_path(OsStr::from_bytes(b"/tmp\0"), 1);
    assert_eq!(fault("/tmp\0", nul), NameFault::Nul);
}

proptest! {
    #[test]
    fn any_text_is_a_key_or_is_refused_with_the_reason(text in text()) {
        // In a type that holds more, so that the limits are looked at here.
        let number = match text.strip_prefix("0x") {
            Some(digits) if digits.starts_with(['+', '-']) => None,
            Some(digits) => i128::from_str_radix(digits, 16)
                .ok()
                .filter(|number| *number <= i128::from(u32::MAX)),
            None => text.parse().ok().filter(|number| {
                i128::from(i32::MIN) <= *number
                    && *number <= i128::from(i32::MAX)
            }),
        };
        match (text.parse::<Key>(), number) {
            (Ok(key), Some(number)) => prop_assert_eq!(
                i128::from(key.as_raw().cast_unsigned()),
                number & 0xffff_ffff
            ),
            (parsed, None) => {
                prop_assert_eq!(fault(&text, parsed), NameFault::NotANumber);
            }
            (parsed, _) => prop_assert!(false, "{text:?} gave {parsed:?}"),
        }
    }

    #[test]
    fn any_text_is_an_id_or_is_refused_with_the_reason(text in text()) {
        let number: Option<i128> = text.parse().ok();
        match number.and_then(|number| u32::try_from(number).ok()) {
            Some(number) if number <= i32::MAX.cast_unsigned() => {
                let id = text.parse::<Id>().unwrap().as_raw();
                prop_assert_eq!(id.cast_unsigned(), number);
            }
            _ => {
                let parsed = text.parse::<Id>();
                prop_assert_eq!(fault(&text, parsed), NameFault::NotANumber);
            }
        }
    }

    #[test]
    fn a_key_reads_back_as_ipcs_and_people_write_it(number: i32) {
        let key = Key::new(number);
        prop_assert_eq!(key.as_raw(), number);
        for text in
            [number.to_string(), format!("{number:#x}"), format!("{number:#010x}")]
        {
            prop_assert_eq!(text.parse::<Key>().unwrap(), key);
        }
        prop_assert_eq!(key.to_string(), format!("{number:#x}"));
    }

    #[test]
    fn an_id_is_any_number_that_is_not_negative(number: i32) {
        match Id::new(number) {
            Ok(id) => {
                prop_assert!(number >= 0);
                prop_assert_eq!(id.as_raw(), number);
                prop_assert_eq!(number.to_string().parse::<Id>().unwrap(), id);
                prop_assert_eq!(id.to_string().parse(), Ok(id));
            }
            Err(_) => prop_assert!(number < 0),
        }
    }
}
