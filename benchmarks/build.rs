//! Compiles the C that the crates are measured against.

fn main() {
    println!("cargo::rerun-if-changed=c");
    cc::Build::new()
        .files(["c/lifecycle.c", "c/descriptors.c"])
        .opt_level(2)
        .warnings_into_errors(true)
        .extra_warnings(true)
        .compile("contenders");
}
