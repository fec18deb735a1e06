//! The mechanism crates stay siblings: the same files, the same public names
//! where the contract is the same, in the same order, and no arrow between
//! them. What differs is listed here, with the reason that the kernel gives.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use syn::{ImplItem, Item, Type, UseTree, Visibility};

const CRATES: [&str; 4] = ["shm-sysv", "shm-posix", "shm-memfd", "shm-dmabuf"];

/// What every mechanism crate has in `src`.
const FILES: [&str; 8] = [
    "identity.rs",
    "lib.rs",
    "mapping.rs",
    "options.rs",
    "raw.rs",
    "reserve.rs",
    "segment.rs",
    "stat.rs",
];

/// What only one has, because only there the kernel makes it possible or
/// necessary.
fn only_here(name: &str) -> &'static [&'static str] {
    match name {
        "shm-sysv" => &["list.rs"],
        "shm-posix" => &["reap.rs"],
        "shm-memfd" => &["seals.rs", "transfer.rs"],
        "shm-dmabuf" => &["cpu_access.rs"],
        other => panic!("no such crate: {other}"),
    }
}

/// Public names of a crate's root, or methods, that not all have. Each
/// line is a difference of the kernel's.
const DIFFERENCES: &[(&str, &[&str])] = &[
    // What finds a segment.
    ("Key", &["shm-sysv"]),
    ("Id", &["shm-sysv"]),
    ("Name", &["shm-posix"]),
    ("Label", &["shm-memfd", "shm-dmabuf"]),
    ("Segment::id", &["shm-sysv"]),
    ("Segment::open_id", &["shm-sysv"]),
    ("Segment::open_id_read_only", &["shm-sysv"]),
    ("SegmentOptions::open_id", &["shm-sysv"]),
    ("SegmentOptions::open_id_read_only", &["shm-sysv"]),
    ("Segment::name", &["shm-posix"]),
    // Two processes cannot race for a memfd: nobody finds it.
    ("Origin", &["shm-sysv", "shm-posix"]),
    ("Segment::open_or_create", &["shm-sysv", "shm-posix"]),
    ("SegmentOptions::open_or_create", &["shm-sysv", "shm-posix"]),
    // A name or an entry outlives its creator; a memfd does not.
    ("Segment::keep", &["shm-sysv", "shm-posix"]),
    ("Segment::unlink", &["shm-posix"]),
    ("Segment::remove", &["shm-sysv"]),
    ("SegmentOptions::remove_on_last_detach", &["shm-sysv"]),
    ("list", &["shm-sysv"]),
    ("Stat::is_abandoned", &["shm-sysv"]),
    ("reap", &["shm-posix"]),
    ("Reaped", &["shm-posix"]),
    // Only a creator that cannot publish whole makes others wait.
    ("SegmentOptions::open_timeout", &["shm-posix"]),
    // System V segments have one size for life.
    ("Segment::resize", &["shm-posix", "shm-memfd"]),
    // Seals, and descriptors that change hands.
    ("Seals", &["shm-memfd"]),
    ("Segment::seal", &["shm-memfd"]),
    ("Segment::seals", &["shm-memfd"]),
    ("Segment::freeze", &["shm-memfd"]),
    ("Segment::try_clone", &["shm-memfd"]),
    ("Segment::to_read_only", &["shm-memfd"]),
    ("Frozen", &["shm-memfd"]),
    ("FrozenMapping", &["shm-memfd"]),
    ("FreezeError", &["shm-memfd"]),
    ("transfer", &["shm-memfd"]),
    // A dma-buf is a driver's: made by a heap or of a memfd, whole and pinned
    // from the beginning, without a mode, and named after it is made.
    ("Heap", &["shm-dmabuf"]),
    ("Segment::from_memfd", &["shm-dmabuf"]),
    ("Segment::from_memfds", &["shm-dmabuf"]),
    ("SegmentOptions::from_memfd", &["shm-dmabuf"]),
    ("SegmentOptions::from_memfds", &["shm-dmabuf"]),
    ("SegmentOptions::label", &["shm-dmabuf"]),
    ("Segment::set_name", &["shm-dmabuf"]),
    ("Reserve", NOT_OF_A_DRIVER),
    ("SegmentOptions::reserve", NOT_OF_A_DRIVER),
    ("HugePages", NOT_OF_A_DRIVER),
    ("SegmentOptions::huge_pages", NOT_OF_A_DRIVER),
    ("Mapping::populate", NOT_OF_A_DRIVER),
    ("SegmentOptions::mode", NOT_OF_A_DRIVER),
    ("Segment::set_mode", NOT_OF_A_DRIVER),
    // Devices use it too.
    ("CpuAccess", &["shm-dmabuf"]),
    ("CpuAccessGuard", &["shm-dmabuf"]),
    ("Segment::cpu_access", &["shm-dmabuf"]),
    ("Segment::export_sync_file", &["shm-dmabuf"]),
    ("Segment::import_sync_file", &["shm-dmabuf"]),
];

const NOT_OF_A_DRIVER: &[&str] = &["shm-sysv", "shm-posix", "shm-memfd"];

#[test]
fn the_mechanism_crates_have_the_same_files() {
    for name in CRATES {
        let mut expected: BTreeSet<String> =
            FILES.iter().map(ToString::to_string).collect();
        expected.extend(only_here(name).iter().map(ToString::to_string));
        assert_eq!(names_in(&root(name).join("src")), expected, "{name}/src");
        let examples = ["receive.rs", "send.rs"].map(String::from);
        assert_eq!(
            names_in(&root(name).join("examples")),
            BTreeSet::from(examples),
            "{name}/examples"
        );
        for file in ["README.md", "LICENSE-MIT", "LICENSE-APACHE"] {
            assert!(root(name).join(file).exists(), "{name}/{file}");
        }
    }
}

#[test]
fn the_mechanism_crates_have_the_same_public_names() {
    let surfaces = CRATES.map(|name| (name, surface(name)));
    let every: BTreeSet<&String> =
        surfaces.iter().flat_map(|(_, names)| names).collect();
    assert!(every.len() > 30, "the sources were not read: {every:?}");
    let mut wrong = Vec::new();
    for item in &every {
        let has: Vec<&str> = surfaces
            .iter()
            .filter(|(_, names)| names.contains(*item))
            .map(|(name, _)| *name)
            .collect();
        let expected = DIFFERENCES
            .iter()
            .find(|(different, _)| different == item)
            .map_or(&CRATES[..], |(_, crates)| *crates);
        if has != expected {
            wrong.push(format!("`{item}` is in {has:?}, not in {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (item, _) in DIFFERENCES {
        assert!(
            every.contains(&(*item).to_string()),
            "`{item}` is listed as a difference and nobody has it"
        );
    }
}

#[test]
fn the_common_methods_stand_in_the_same_order() {
    for file in ["segment.rs", "options.rs", "mapping.rs"] {
        let orders = CRATES.map(|name| {
            let path = root(name).join("src").join(file);
            let mut order = public_methods(&path);
            order.retain(|method| {
                !DIFFERENCES.iter().any(|(item, _)| item == method)
            });
            order
        });
        assert!(!orders[0].is_empty(), "{file} has no public methods");
        assert_eq!(orders[0], orders[1], "{file}: shm-sysv and shm-posix");
        assert_eq!(orders[1], orders[2], "{file}: shm-posix and shm-memfd");
        assert_eq!(orders[2], orders[3], "{file}: shm-memfd and shm-dmabuf");
    }
}

#[test]
fn the_crate_documents_and_readmes_have_the_same_headings() {
    let headings = |name: &str, file: &str, prefix: &str| -> Vec<String> {
        let text = fs::read_to_string(root(name).join(file)).unwrap();
        // In an example, the same sign hides a line.
        let mut in_example = false;
        let lines = text.lines().filter(|line| {
            in_example ^= line.trim_start_matches("//! ").starts_with("```");
            !in_example && line.starts_with(prefix)
        });
        lines.map(String::from).collect()
    };
    for (file, prefix) in [("src/lib.rs", "//! # "), ("README.md", "## ")] {
        let all = CRATES.map(|name| headings(name, file, prefix));
        assert!(all[0].len() > 4, "{file} has few headings");
        assert_eq!(all[0], all[1], "{file}: shm-sysv and shm-posix");
        assert_eq!(all[1], all[2], "{file}: shm-posix and shm-memfd");
        assert_eq!(all[2], all[3], "{file}: shm-memfd and shm-dmabuf");
    }
}

#[test]
fn the_lib_files_hold_no_items() {
    for name in CRATES.into_iter().chain(["shm-common"]) {
        for item in parse(&root(name).join("src/lib.rs")).items {
            let allowed = match &item {
                Item::Mod(module) => module.content.is_none(),
                Item::Use(_) => true,
                // Runs the README's examples.
                Item::Struct(item) => item.ident == "ReadmeExamples",
                _ => false,
            };
            assert!(allowed, "{name}/src/lib.rs holds more than modules");
        }
    }
}

#[test]
fn no_mechanism_crate_depends_on_another() {
    let allowed = |name: &str| -> &[&str] {
        match name {
            "shm-common" => &["libc", "nix", "zerocopy"],
            "shm-memfd" => &["libc", "nix", "sendfd", "shm-common"],
            "shm-sync" => &["libc", "rustix", "shm-common"],
            _ => &["libc", "nix", "shm-common"],
        }
    };
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(root("."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap();
    for name in CRATES.into_iter().chain(["shm-common", "shm-sync"]) {
        let packages = metadata["packages"].as_array().unwrap();
        let package = packages.iter().find(|p| p["name"] == name).unwrap();
        let dependencies: Vec<&str> = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dependency| dependency["kind"].is_null())
            .map(|dependency| dependency["name"].as_str().unwrap())
            .collect();
        assert_eq!(dependencies, allowed(name), "{name}");
    }
}

fn root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn names_in(directory: &Path) -> BTreeSet<String> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn parse(path: &Path) -> syn::File {
    syn::parse_file(&fs::read_to_string(path).unwrap()).unwrap()
}

/// What the crate's root exports, and the public methods of those types that
/// all crates have.
fn surface(name: &str) -> BTreeSet<String> {
    let source = root(name).join("src");
    let mut names = BTreeSet::new();
    for item in parse(&source.join("lib.rs")).items {
        match item {
            Item::Use(item) if is_public(&item.vis) => {
                leaves(&item.tree, &mut names);
            }
            Item::Mod(item) if is_public(&item.vis) => {
                names.insert(item.ident.to_string());
            }
            _ => {}
        }
    }
    for file in ["segment.rs", "options.rs", "mapping.rs", "stat.rs"] {
        names.extend(public_methods(&source.join(file)));
    }
    names
}

fn leaves(tree: &UseTree, names: &mut BTreeSet<String>) {
    match tree {
        UseTree::Path(path) => leaves(&path.tree, names),
        UseTree::Name(name) => {
            names.insert(name.ident.to_string());
        }
        UseTree::Group(group) => {
            group.items.iter().for_each(|tree| leaves(tree, names));
        }
        UseTree::Rename(_) | UseTree::Glob(_) => {
            panic!("a name that cannot be compared is exported");
        }
    }
}

/// `Type::method`, in the order in which they stand in the file.
fn public_methods(path: &Path) -> Vec<String> {
    let mut methods = Vec::new();
    for item in parse(path).items {
        let Item::Impl(item) = item else { continue };
        let (None, Type::Path(of)) = (&item.trait_, &*item.self_ty) else {
            continue;
        };
        let of = &of.path.segments.last().unwrap().ident;
        for member in item.items {
            match member {
                ImplItem::Fn(method) if is_public(&method.vis) => {
                    methods.push(format!("{of}::{}", method.sig.ident));
                }
                _ => {}
            }
        }
    }
    methods
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}
