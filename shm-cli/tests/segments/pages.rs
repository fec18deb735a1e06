//! `shm completions` and `shm man`.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::*;

#[test]
fn every_shell_gets_a_script_and_bash_completes_by_it() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = stdout(&mut shm(["completions", shell]));
        assert!(script.contains("older-than"), "{shell}");
        // Not for people.
        assert!(!script.contains("peer"), "{shell}");
    }
    let script = stdout(&mut shm(["completions", "bash"]));
    let ask = "\nCOMP_WORDS=(shm re); COMP_CWORD=1; _shm shm re shm\n\
               echo \"${COMPREPLY[@]}\"\n";
    let Ok(mut bash) = Command::new("bash")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
    else {
        eprintln!("left out: needs bash");
        return;
    };
    let mut input = bash.stdin.take().unwrap();
    input.write_all(script.as_bytes()).unwrap();
    input.write_all(ask.as_bytes()).unwrap();
    drop(input);
    let output = bash.wait_with_output().unwrap();
    let words = String::from_utf8(output.stdout).unwrap();
    assert_eq!(words.trim(), "read reap recv", "{words}");
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let page = stdout(&mut shm(["man"]));
    assert!(page.contains(".TH shm 1"), "{page}");
    for command in ["ls", "stat", "create", "write", "read", "rm", "reap"] {
        assert!(page.contains(&format!("shm\\-{command}(1)")), "{page}");
        let page = stdout(&mut shm(["man", command]));
        assert!(page.contains(&format!(".TH shm-{command} 1")), "{page}");
    }
    assert!(!page.contains("peer"), "{page}");
    for unknown in ["peer", "nonsense"] {
        let line = failure(&mut shm(["man", unknown]), 2);
        assert!(line.contains("no command of shm"), "{line}");
    }
}
