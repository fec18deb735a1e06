//! The raw layer against the kernel's own headers, as the C compiler reads
//! them.
#![expect(clippy::cast_lossless, reason = "the constants have several types")]

use std::fmt::Write;
use std::fs;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use shm_dmabuf::raw;

/// Expressions of C, and what they must be.
fn expected() -> Vec<(String, u64)> {
    let mut expected = Vec::new();
    macro_rules! structures {
        ($($name:ident { $($field:ident),* })*) => {$(
            let size = size_of::<raw::$name>();
            expected.push((format!("sizeof(struct {})", stringify!($name)), size as u64));
            $(
                let offset = offset_of!(raw::$name, $field);
                let of = format!(
                    "offsetof(struct {}, {})", stringify!($name), stringify!($field)
                );
                expected.push((of, offset as u64));
            )*
        )*};
    }
    macro_rules! numbers {
        ($($name:ident)*) => {$(
            expected.push((stringify!($name).to_owned(), raw::$name as u64));
        )*};
    }
    structures! {
        udmabuf_create { memfd, flags, offset, size }
        udmabuf_create_item { memfd, __pad, offset, size }
        udmabuf_create_list { flags, count }
        dma_heap_allocation_data { len, fd, fd_flags, heap_flags }
        dma_buf_sync { flags }
        dma_buf_export_sync_file { flags, fd }
        dma_buf_import_sync_file { flags, fd }
    }
    numbers! {
        UDMABUF_CREATE UDMABUF_CREATE_LIST UDMABUF_FLAGS_CLOEXEC
        DMA_HEAP_IOCTL_ALLOC
        DMA_BUF_IOCTL_SYNC DMA_BUF_SET_NAME_B DMA_BUF_NAME_LEN
        DMA_BUF_IOCTL_EXPORT_SYNC_FILE DMA_BUF_IOCTL_IMPORT_SYNC_FILE
        DMA_BUF_SYNC_READ DMA_BUF_SYNC_WRITE DMA_BUF_SYNC_RW
        DMA_BUF_SYNC_START DMA_BUF_SYNC_END
        DMA_BUF_MAGIC
    }
    let items = size_of::<raw::udmabuf_create_list>() as u64;
    let list = "offsetof(struct udmabuf_create_list, list)";
    expected.push((list.to_owned(), items));
    expected
}

#[test]
fn structures_and_numbers_are_those_of_the_kernels_headers() {
    let mut source = String::from(
        "#include <stddef.h>\n\
         #include <linux/types.h>\n\
         #include <linux/magic.h>\n\
         #include <linux/udmabuf.h>\n\
         #include <linux/dma-heap.h>\n\
         #include <linux/dma-buf.h>\n\
         #include <sys/ioctl.h>\n",
    );
    for (expression, value) in expected() {
        writeln!(
            source,
            "_Static_assert(({expression}) == {value}ull, \"{expression}\");"
        )
        .unwrap();
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = directory.join(format!("uapi-{}.c", std::process::id()));
    fs::write(&file, source).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-fsyntax-only", "-Wall", "-Werror"]).arg(&file);
    let output = compiler.output();
    fs::remove_file(&file).unwrap();
    let output = output.expect("this test needs a C compiler: cc");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
