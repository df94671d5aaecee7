#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocipull_fuzz::tar(data));

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    ocipull_fuzz::repair::mutate(data, size, max_size, seed)
});
