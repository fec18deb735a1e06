//! placeholder (helper-1 replaces it)
#![expect(unsafe_code, reason = "x")]
pub(crate) unsafe fn read(s: *const u8, d: *mut u8, n: usize) {
    unsafe { std::ptr::copy(s, d, n) }
}
pub(crate) unsafe fn write(s: *const u8, d: *mut u8, n: usize) {
    unsafe { std::ptr::copy(s, d, n) }
}
pub(crate) unsafe fn transfer(s: *const u8, d: *mut u8, n: usize) {
    unsafe { std::ptr::copy(s, d, n) }
}
pub(crate) unsafe fn fill(d: *mut u8, v: u8, n: usize) {
    unsafe { std::ptr::write_bytes(d, v, n) }
}
