//! The `shm` command, on kernels that have other mechanisms than this machine.
//! It runs in the virtual machine, where the command lies in `/bin`, and is
//! ignored elsewhere.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::env;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio, id};

use integration_tests::peer::{DEADLINE, Peer};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use serde_json::{Value, json};
use shm_common::Size;

fn main() {
    let arguments = Arguments::from_args();
    libtest_mimic::run(&arguments, tests()).exit();
}

fn tests() -> Vec<Trial> {
    macro_rules! in_vm {
        ($($test:ident $(needs $needs:expr)?,)*) => {
            vec![$(Trial::ignorable_test(stringify!($test), || {
                run_if_possible($test, &[$($needs)?])
            })),*]
        };
    }
    in_vm! {
        a_buffer_is_one_row_with_all_who_have_it needs "/dev/dma_heap/system",
        a_buffer_made_of_a_memfd_shows_beside_it needs "/dev/udmabuf",
        every_mechanism_moves_every_byte,
    }
}

fn run_if_possible(test: fn(), needs: &[&str]) -> Result<Completion, Failed> {
    if env::var_os("SHM_TEST_VM").is_none() {
        return Ok(Completion::ignored_with(
            "it needs the command in /bin: integration-tests/vm/run",
        ));
    }
    // As who opens a device, not as who sees its name.
    if let Some(missing) = needs.iter().find(|path| File::open(path).is_err()) {
        return Ok(Completion::ignored_with(format!("there is no {missing}")));
    }
    test();
    Ok(Completion::Completed)
}

fn a_buffer_is_one_row_with_all_who_have_it() {
    let heap = shm_dmabuf::Heap::open("system").unwrap();
    let buffer = shm_dmabuf::Segment::create(&heap, Size::MIB).unwrap();
    buffer.set_name(&shm_dmabuf::Label::new("frames").unwrap()).unwrap();
    let mapping = buffer.map().unwrap();
    let again = buffer.as_fd().try_clone_to_owned().unwrap();
    // It inherits the descriptors and the mapping.
    let peer = Peer::fork(|link| link.receive()).unwrap();

    let rows = list("dmabuf");
    let [row] = &rows[..] else { panic!("{rows:?}") };
    let fd = buffer.as_fd().as_raw_fd();
    let target = format!("dmabuf:{}/{fd}", id());
    assert_eq!(row["target"], target);
    assert_eq!(row["name"], "frames");
    assert_eq!(row["bytes"], 1 << 20);
    assert_eq!(row["verdict"], "in-use");
    let users = row["users"].as_array().unwrap();
    let user = |pid: u32| users.iter().find(|user| user["pid"] == pid).unwrap();
    let ours = user(id());
    assert_eq!(
        (&ours["descriptors"], &ours["mapped"]),
        (&json!(2), &json!(true))
    );
    let theirs = user(peer.pid().cast_unsigned());
    assert_eq!(theirs["mapped"], true);
    assert_eq!(users.len(), 2);

    let stat = shm(&["stat", &target, "--json"]);
    assert_eq!(
        (&stat["bytes"], &stat["users"]),
        (&row["bytes"], &row["users"])
    );

    // Out of this process and back into it.
    mapping.bytes().write_at(7, b"devices").unwrap();
    let read = run(&["read", &target, "--offset=7", "--len=7"], b"");
    assert_eq!(read, b"devices");
    run(&["write", &target, "--offset=1048574"], b"to");
    assert_eq!(mapping.bytes().get(1_048_574), Ok(*b"to"));

    peer.send("done").unwrap();
    peer.join(DEADLINE).unwrap();
    drop((buffer, again));
    let rows = list("dmabuf");
    assert_eq!(rows.len(), 1, "it is still mapped");
    assert_eq!(rows[0]["target"], Value::Null);
    drop(mapping);
    assert!(list("dmabuf").is_empty());
}

fn a_buffer_made_of_a_memfd_shows_beside_it() {
    let label = shm_memfd::Label::new("under").unwrap();
    let memfd = shm_memfd::Segment::create(&label, Size::MIB).unwrap();
    let buffer = shm_dmabuf::Segment::from_memfd(&memfd, 4096..65_536).unwrap();
    let (buffers, memfds) = (list("dmabuf"), list("memfd"));
    assert_eq!((buffers.len(), memfds.len()), (1, 1));
    assert_eq!(buffers[0]["bytes"], 65_536 - 4096);
    assert_eq!(memfds[0]["name"], "under");
    drop((buffer, memfd));
}

fn every_mechanism_moves_every_byte() {
    let report = shm(&["compare", "--json", "--size=1MiB", "--rounds=100"]);
    for outcome in report["mechanisms"].as_array().unwrap() {
        let name = outcome["name"].as_str().unwrap();
        let is_there =
            name != "dmabuf" || File::open("/dev/dma_heap/system").is_ok();
        assert_eq!(outcome["available"], is_there, "{outcome}");
        assert_eq!(outcome["verified"], is_there, "{outcome}");
        if is_there {
            let left = outcome["left_after_sigkill"].as_array().unwrap();
            let by_name = matches!(name, "sysv" | "posix");
            assert_eq!(!left.is_empty(), by_name, "{outcome}");
        }
    }
}

fn list(mechanism: &str) -> Vec<Value> {
    let listed = shm(&["ls", "--json", "--mechanism", mechanism]);
    listed["segments"].as_array().unwrap().clone()
}

fn shm(arguments: &[&str]) -> Value {
    serde_json::from_slice(&run(arguments, b"")).unwrap()
}

/// Gives what it prints.
fn run(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("shm");
    command.args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output.stdout
}
